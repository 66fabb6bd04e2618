// What is used of a limit, what is left, and when more frees up.

import { html } from '../vendor/preact.js';
import { count, duration } from '../lib/format.js';
import { Meter } from './basics.js';

// `use` says what is used and remains, or what is missing to know which counter is meant; or the store does not answer.
export function LiveUse({ name, use: { used, remaining, missing } }) {
  if (missing?.length) return html`<span class="muted">one counter for each ${missing.map(dimension).join(', ')}</span>`;
  if (used === null || used === undefined) return html`<span class="muted">not known now</span>`;
  const all = used + remaining;
  return html`<span class="use"><${Meter} used=${used} of=${all} label="In use of ${name}" /><span class="numbers-of">${count(used)} <span class="muted">of ${count(all)}</span></span></span>`;
}

export function Frees({ seconds, remaining }) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds === 0) return html`<span class="muted">nothing is used</span>`;
  return remaining === 0 ? html`<b>in ${duration(seconds)}</b>` : `in ${duration(seconds)}`;
}

const DIMENSIONS = { client_ip: 'client address' };

export function dimension(name) {
  return DIMENSIONS[name] ?? name.replaceAll('_', ' ');
}
