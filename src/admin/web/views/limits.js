// All limits, with what they deny now.

import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { count, rate } from '../lib/format.js';
import { usePoll } from '../lib/poll.js';
import { href, refine } from '../lib/router.js';
import { Badge, Heading, Panel } from '../parts/basics.js';
import { LiveUse } from '../parts/uses.js';
import { Listing, Search } from '../parts/table.js';

const LIMIT = 50;
const RATES_MAX = 3;
export const TIERS = { api: 'of the API', tenant: 'of each tenant', rate_limits: 'of a list' };

export function Limits({ query }) {
  const [search, gateway, after] = ['search', 'gateway', 'after'].map((name) => query.get(name) ?? '');
  const asked = usePoll(path('/v1/limits', { search, gateway, after, limit: LIMIT }), { seconds: 3, events: ['generation'] });
  const rates = useRates(asked.data);
  const columns = [
    { name: 'API', grow: true, of: (limit) => html`<${ApiName} of=${limit} />` },
    { name: 'Limit', of: (limit) => html`<span class="mono">${limit.limit}</span> <span class="muted">${limit.tier}</span>${modeOf(limit) === 'shadow' && html` <${Mode} limit=${limit} />`}` },
    { name: 'Rate', wrap: true, of: (limit) => html`<${Rate} limit=${limit} />` },
    { name: 'In use', of: (limit) => html`<${Use} limit=${limit} />` },
    { name: 'Over, a second', number: true, of: (limit) => html`<${Over} limit=${limit} rates=${rates} />` },
    { name: 'In all', number: true, less: true, of: (limit) => count(limit.over_limit + limit.shadow_over_limit) },
  ];
  return html`
    <${Heading} title="Limits">What each of them lets through, how much of it is in use, and what is over it.<//>
    <div class="filters">
      <${Search} value=${search} label="Part of an API's or a limit's name" />
      ${gateway && html`<button type="button" onClick=${() => refine({ gateway: '' })}>Gateway ${gateway} ×</button>`}
    </div>
    <${Panel} flush>
      <${Listing} label="Limits" asked=${asked} after=${after} columns=${columns} rows=${asked.data?.limits ?? []} keyOf=${keyOf} empty="No limit is like that." />
    <//>`;
}

// Limits of tenants and of lists have more counters than anybody could look at here.
export function Use({ limit: { counter, limit, tier } }) {
  if (!counter) return html`<span class="muted">one counter for each ${tier === 'tenant' ? 'tenant' : 'key'}</span>`;
  return html`<${LiveUse} name=${limit} use=${counter} />`;
}

export function keyOf({ gateway, api, tier, limit }) {
  return [gateway, api ?? '', tier, limit].join('\n');
}

// Documents may share the name of a limit and nothing else: plans do.
export function Rate({ limit }) {
  if (limit.rate) return html`<b>${limit.rate}</b>`;
  const rates = [...new Set((limit.documents ?? []).map(({ rate: own }) => own))];
  const more = rates.length + (limit.documents_more ?? 0) > RATES_MAX;
  return html`${rates.slice(0, RATES_MAX).map((one, index) => html`${index > 0 && ', '}<b>${one}</b>`)}${more && ', …'}`;
}

// Of several documents: what any of them has.
function modeOf({ mode, documents = [] }) {
  return mode ?? (documents.some(({ mode: own }) => own === 'shadow') ? 'shadow' : 'enforce');
}

export function Mode({ limit }) {
  const mode = modeOf(limit);
  return mode === 'shadow' ? html`<${Badge} word="shadow" />` : html`<span class="muted">${mode}</span>`;
}

function ApiName({ of: { gateway, api } }) {
  if (!api) return html`<span class="muted">of tenants at ${gateway}</span>`;
  return html`<a class="name" href=${href(['limits', gateway, api])}>${api}</a> <span class="muted">${gateway}</span>`;
}

export function Over({ limit, rates }) {
  const found = rates.get(keyOf(limit));
  if (!found) return html`<span class="muted">–</span>`;
  const { over, shadow } = found;
  if (over > 0) return html`<${Badge} word=${rate(over)} sign="denied" />`;
  if (shadow > 0) return html`<${Badge} word=${rate(shadow)} sign="shadow" />`;
  return html`<span class="muted">0</span>`;
}

// The totals only grow; two looks at them are a rate.
export function useRates(told) {
  const before = useRef(null);
  const [rates, setRates] = useState(new Map());
  useEffect(() => {
    if (!told) return;
    const last = before.current;
    before.current = told;
    const seconds = last ? (Date.parse(told.at) - Date.parse(last.at)) / 1000 : 0;
    if (seconds <= 0) return;
    const older = new Map(last.limits.map((limit) => [keyOf(limit), limit]));
    const difference = (limit, field) => {
      const old = older.get(keyOf(limit));
      // A server that was started again begins at nothing.
      return old ? Math.max(0, limit[field] - old[field]) / seconds : 0;
    };
    setRates(new Map(told.limits.map((limit) => [keyOf(limit), { over: difference(limit, 'over_limit'), shadow: difference(limit, 'shadow_over_limit') }])));
  }, [told]);
  return rates;
}
