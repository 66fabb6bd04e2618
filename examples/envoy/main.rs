mod kit;

fn main() {}
