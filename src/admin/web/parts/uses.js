// What is used of a limit, what is left, and when more frees up.

import { html } from '../vendor/preact.js';
import { count, duration } from '../lib/format.js';
import { usePoll } from '../lib/poll.js';
import { Meter } from './basics.js';

// Counters by gateway, API, tier and limit. Those that count by something that is not said are not there.
export function useUses(path) {
  const { data } = usePoll(path, { seconds: 5 });
  const known = (data?.counters ?? []).filter((counter) => counter.used !== null);
  return new Map(known.map((counter) => [[counter.gateway, counter.api ?? '', counter.tier, counter.limit].join('\n'), counter]));
}

export function LiveUse({ use, missing }) {
  if (missing?.length) return html`<span class="muted">one counter for each ${missing.map(dimension).join(', ')}</span>`;
  if (!use) return html`<span class="muted">one for each key</span>`;
  const all = use.used + use.remaining;
  return html`<span class="use"><${Meter} used=${use.used} of=${all} label="In use of ${use.limit}" /><span class="numbers-of">${count(use.used)} <span class="muted">of ${count(all)}</span></span></span>`;
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
