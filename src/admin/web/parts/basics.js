// The small things that every view is made of.

import { html, useEffect, useState } from '../vendor/preact.js';
import { ago, time } from '../lib/format.js';
import { Icon } from './icons.js';

// A word with a shape and a colour, in this order: the colour is never the only sign.
const SIGNS = {
  SYNCED: ['good', 'check'],
  STALE: ['warn', 'clock'],
  REFUSED: ['bad', 'cross'],
  HELD: ['warn', 'pause'],
  GONE: ['quiet', 'dash'],
  served: ['plain', 'check'],
  refused: ['bad', 'cross'],
  'older version': ['warn', 'warning'],
  ok: ['plain', 'check'],
  done: ['good', 'check'],
  'not ok': ['bad', 'cross'],
  valid: ['plain', 'check'],
  expiring: ['warn', 'warning'],
  expired: ['bad', 'cross'],
  allowed: ['good', 'check'],
  denied: ['bad', 'cross'],
  enforce: ['quiet', 'dot'],
  shadow: ['quiet', 'dash'],
  added: ['good', 'plus'],
  changed: ['warn', 'edit'],
  removed: ['bad', 'dash'],
};

export function Badge({ word, sign }) {
  const [tone, icon] = SIGNS[sign ?? word] ?? ['quiet', 'dot'];
  return html`<span class="badge ${tone}"><${Icon} name=${icon} />${word}</span>`;
}

// One clock for all that says how long ago something was.
const ticking = new Set();
setInterval(() => document.hidden || ticking.forEach((tick) => tick()), 1000);

export function Ago({ at }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const next = () => tick((count) => count + 1);
    ticking.add(next);
    return () => ticking.delete(next);
  }, []);
  return at ? html`<time datetime=${at} title=${at}>${ago(at)}</time>` : '–';
}

export function Time({ at }) {
  return html`<time datetime=${at} title=${at}>${time(at)}</time>`;
}

export function Heading({ title, children, actions }) {
  return html`<header class="heading">
    <div><h1 tabindex="-1">${title}</h1>${children && html`<p class="muted">${children}</p>`}</div>
    ${actions && html`<div class="actions">${actions}</div>`}
  </header>`;
}

export function Panel({ title, note, more, children, flush }) {
  return html`<section class="panel ${flush ? 'flush' : ''}">
    ${title && html`<div class="panel-head"><h2>${title}</h2>${note && html`<span class="note">${note}</span>`}${more}</div>`}
    ${children}
  </section>`;
}

// What stands in the place of something that is not there: loading, failed or empty.
export function Absent({ of, empty }) {
  if (of.problem && !of.data) return html`<${Trouble} problem=${of.problem} />`;
  if (!of.data) return html`<p class="absent" role="status">Loading…</p>`;
  return html`<p class="absent">${empty}</p>`;
}

export function Trouble({ problem, children }) {
  return html`<div class="notice bad" role="alert">
    <${Icon} name="warning" /><div><p>${problem.message}</p>${children}</div>
  </div>`;
}

export function Notice({ tone = 'quiet', icon = 'dot', children }) {
  return html`<div class="notice ${tone}" role="status"><${Icon} name=${icon} /><div>${children}</div></div>`;
}

// A share of something, as a bar beside its numbers.
export function Meter({ used, of, label, tone }) {
  const share = of > 0 ? Math.min(1, used / of) : 0;
  const own = tone ?? (share >= 1 ? 'full' : share >= 0.8 ? 'near' : '');
  return html`<span class="meter ${own}" role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax=${of} aria-valuenow=${used}>
    <svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect width=${100 * share} height="6" /></svg>
  </span>`;
}

export function Facts({ rows }) {
  const known = rows.filter(([, value]) => value !== undefined && value !== null && value !== '');
  return html`<dl class="facts">${known.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Field({ label, children, hint }) {
  return html`<label class="field"><span>${label}</span>${children}${hint && html`<small>${hint}</small>`}</label>`;
}

export function Choice({ label, value, options, onChoose }) {
  const of = (option) => (typeof option === 'string' ? [option, option] : option);
  return html`<label class="choice"><span>${label}</span>
    <select value=${value} onChange=${(event) => onChoose(event.target.value)}>
      ${options.map(of).map(([key, name]) => html`<option value=${key} selected=${key === value}>${name}</option>`)}
    </select>
  </label>`;
}
