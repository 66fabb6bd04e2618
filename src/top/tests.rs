use super::notes::Counter;
use super::*;
use crate::names::Name;

fn shop() -> Name {
    Name::parse("shop").unwrap()
}

fn note(notes: &mut Notes, gateway: &Name, tenant: &str, is_denied: bool) {
    notes.decision(gateway, Some(tenant.as_bytes()), is_denied);
    let counter = Counter {
        key: tenant.bytes().chain([0]).chain(gateway.as_str().bytes()).fold(0, |key, byte| key << 8 | u128::from(byte)),
        api: None,
        tier: "tenant",
        limit: &Name::parse("minute").unwrap(),
        is_of_tenant: true,
        has_no_room: is_denied,
        is_shadow: false,
    };
    notes.counter(counter, |_| {});
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn decide(top: &Top, tenant: &str, is_denied: bool, now: Timestamp) {
    top.take(now, |notes| note(notes, &shop(), tenant, is_denied));
}

const BY_DECISIONS: Question<'_> =
    Question { gateway: None, tenant: None, search: None, api: None, by: Measure::Decisions, limit: 10 };
const BY_DENIED: Question<'_> = Question { by: Measure::Denied, ..BY_DECISIONS };

/// As `tenant decisions/denied`; the counters say the same.
fn told(report: &Report) -> Vec<String> {
    let shown = |name: &str, counts: &Counts| format!("{name} {}/{}", counts.decisions, counts.denied);
    let tenants: Vec<_> = report.tenants.iter().map(|(id, counts)| shown(&id.tenant, counts)).collect();
    let counters = report.counters.iter().map(|(name, counts)| shown(name.tenant.as_ref().unwrap(), counts));
    assert_eq!(tenants, counters.collect::<Vec<_>>());
    tenants
}

#[test]
fn the_busiest_and_the_most_denied_are_told_exactly_while_there_are_few() {
    let top = Top::default();
    for (tenant, decisions, denied) in [("acme", 7, 2), ("bolt", 9, 0), ("calm", 1, 0), ("evil", 4, 4)] {
        (0..decisions).for_each(|number| decide(&top, tenant, number < denied, at(100)));
    }
    assert_eq!(told(&top.report(&BY_DECISIONS, at(100))), [""; 0], "nothing is collected yet");
    top.collect(at(101));
    let report = top.report(&BY_DECISIONS, at(101));
    assert_eq!(told(&report), ["bolt 9/0", "acme 7/2", "evil 4/4", "calm 1/0"]);
    assert!(report.is_exact);
    assert_eq!(told(&top.report(&BY_DENIED, at(101))), ["evil 4/4", "acme 7/2"]);
    assert_eq!(told(&top.report(&Question { limit: 1, ..BY_DENIED }, at(101))), ["evil 4/4"]);
    top.take(at(101), |notes| note(notes, &Name::parse("side").unwrap(), "acme", true));
    top.collect(at(102));
    let of_shop = Question { gateway: Some("shop"), ..BY_DENIED };
    assert_eq!(told(&top.report(&of_shop, at(102))), ["evil 4/4", "acme 7/2"]);
    assert_eq!(told(&top.report(&Question { gateway: Some("side"), ..BY_DENIED }, at(102))), ["acme 1/1"]);
}

#[test]
fn what_is_older_than_a_minute_is_forgotten() {
    let top = Top::default();
    for second in 100..200 {
        decide(&top, if second < 150 { "early" } else { "late" }, false, at(second));
        top.collect(at(second));
    }
    let report = top.report(&BY_DECISIONS, at(199));
    assert_eq!((told(&report), report.since), (vec!["late 50/0".to_owned(), "early 10/0".to_owned()], at(140)));
    // Also where nothing comes any more.
    let report = top.report(&BY_DECISIONS, at(215));
    assert_eq!((told(&report), report.since), (vec!["late 40/0".to_owned()], at(160)));
    let report = top.report(&BY_DECISIONS, at(1000));
    assert_eq!((told(&report), report.since, report.is_exact), (Vec::new(), at(1000), true));
    assert_eq!(top.slots.lock().len(), 1);
}

#[test]
fn threads_note_for_themselves_and_what_they_noted_outlives_them() {
    let top = Top::default();
    std::thread::scope(|scope| {
        let note = || (0..1000).for_each(|_| decide(&top, "acme", false, at(100)));
        let threads = [0; 4].map(|_| scope.spawn(note));
        // The end of the scope would not wait for what a thread gives back when it ends.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    decide(&top, "acme", false, at(100));
    top.collect(at(101));
    assert_eq!(told(&top.report(&BY_DECISIONS, at(101))), ["acme 4001/0"]);
    top.collect(at(101));
    assert_eq!(top.threads.lock().len(), 1, "those that are gone are forgotten");
    // Another's decisions are not among them, on the same thread.
    let other = Top::default();
    decide(&other, "bolt", false, at(101));
    decide(&top, "acme", false, at(101));
    [&top, &other].iter().for_each(|top| top.collect(at(102)));
    assert_eq!(told(&other.report(&BY_DECISIONS, at(102))), ["bolt 1/0"]);
    assert_eq!(told(&top.report(&BY_DECISIONS, at(102))), ["acme 4002/0"]);
}

/// Of two million decisions some twenty thousand are noted, and they say how it was.
#[test]
fn of_many_decisions_the_shares_are_estimated() {
    fastrand::seed(7);
    let top = Top::default();
    let per_second = 200_000;
    for second in 100..110 {
        for number in 0..per_second {
            let now = Timestamp::from_nanos(second * 1_000_000_000 + number * 1_000_000_000 / per_second);
            let tenant = match fastrand::u32(0..100) {
                0..30 => "large".to_owned(),
                30..40 => "denied".to_owned(),
                _ => fastrand::u32(0..100_000).to_string(),
            };
            decide(&top, &tenant, tenant == "denied", now);
        }
        top.collect(at(second));
    }
    let report = top.report(&Question { limit: 2, ..BY_DECISIONS }, at(110));
    assert!(!report.is_exact);
    let [(large, counts), (denied, of_denied)] = &report.tenants[..] else { panic!("{report:?}") };
    assert_eq!((&*large.tenant, &*denied.tenant), ("large", "denied"));
    let is_about = |told: u64, share: f64| (told as f64 / (share * 2_000_000.0) - 1.0).abs() < 0.1;
    assert!(is_about(counts.decisions, 0.3) && is_about(of_denied.decisions, 0.1), "{report:?}");
    assert_eq!(of_denied.denied, of_denied.decisions);
    let most_denied = top.report(&BY_DENIED, at(110)).tenants;
    assert_eq!(most_denied.len(), 1, "nobody else was denied: {most_denied:?}");
}

#[test]
fn a_tenant_is_found_by_its_name_however_many_are_busier() {
    let top = Top::default();
    for number in 0..400 {
        (0..=number / 390).for_each(|_| decide(&top, &format!("Tenant-{number:03}"), number % 2 == 0, at(100)));
    }
    let long = "x".repeat(300);
    decide(&top, &long, true, at(100));
    top.collect(at(101));
    let all = top.report(&BY_DECISIONS, at(101));
    assert_eq!((all.tenants.len(), all.tenants_more, all.counters_more), (10, 391, 391));
    assert_eq!(all.tenants_missed_max, 0, "all have a place");
    let of = |question| top.report(&question, at(101));
    let one = of(Question { tenant: Some("Tenant-007"), ..BY_DECISIONS });
    assert_eq!((told(&one), one.tenants_more), (vec!["Tenant-007 1/0".to_owned()], 0));
    assert_eq!(told(&of(Question { tenant: Some("Tenant-00"), ..BY_DECISIONS })), [""; 0], "it is the whole name");
    let some = of(Question { search: Some("tenant-00"), limit: 3, ..BY_DENIED });
    assert_eq!(
        (told(&some), some.tenants_more),
        (["000", "002", "004"].map(|n| format!("Tenant-{n} 1/1")).to_vec(), 2)
    );
    assert_eq!(of(Question { tenant: Some(&long), ..BY_DECISIONS }).tenants.len(), 1, "by as much as is known of it");
    assert_eq!(of(Question { api: Some("pay"), ..BY_DECISIONS }).counters, [], "these count requests to every Api");
}

#[test]
fn what_is_not_known_is_bounded_by_what_is_told() {
    let top = Top::default();
    for number in 0..2000 {
        decide(&top, &format!("t{number}"), false, at(100));
    }
    (0..9).for_each(|_| decide(&top, "busy", false, at(100)));
    top.collect(at(101));
    let report = top.report(&BY_DECISIONS, at(101));
    assert_eq!(report.tenants[0].0.tenant.as_ref(), "busy");
    assert!(!report.is_exact && (1..9).contains(&report.tenants_missed_max), "{}", report.tenants_missed_max);
    let gone = top.report(&Question { tenant: Some("t0"), ..BY_DECISIONS }, at(101));
    let has_at_most = gone.tenants.first().map_or(gone.tenants_missed_max, |(_, counts)| counts.decisions);
    assert!(has_at_most >= 1, "it asked once");
}
