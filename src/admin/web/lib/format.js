// Numbers and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const small = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

export function count(number) {
  if (number === null || number === undefined) return '–';
  return Math.abs(number) < 100000 ? whole.format(number) : short.format(number);
}

export function rate(number) {
  if (number === null || number === undefined) return '–';
  return number === 0 || number >= 100 ? count(number) : small.format(number);
}

export function percent(part, all) {
  if (!all) return '–';
  const share = (100 * part) / all;
  if (share > 0 && share < 0.1) return '< 0.1 %';
  return `${share < 10 ? share.toFixed(1) : share.toFixed(0)} %`;
}

export function micros(us) {
  if (us === null || us === undefined) return '–';
  return us < 1000 ? `${whole.format(us)} µs` : `${small.format(us / 1000)} ms`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${small.format(seconds)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function ago(at, now = Date.now()) {
  const seconds = (now - Date.parse(at)) / 1000;
  if (Number.isNaN(seconds)) return '–';
  return seconds < 2 ? 'just now' : `${duration(seconds)} ago`;
}

export function ahead(at, now = Date.now()) {
  const seconds = (Date.parse(at) - now) / 1000;
  return Number.isNaN(seconds) ? '–' : `in ${duration(Math.max(0, seconds))}`;
}

const clockTime = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayTime = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

// The time alone, where it is of the last day.
export function time(at) {
  const date = new Date(at);
  if (Number.isNaN(date.valueOf())) return '–';
  return (Date.now() - date < 86400000 ? clockTime : dayTime).format(date);
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
