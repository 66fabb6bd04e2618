// All documents, those that are refused first where that is asked for.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { usePoll } from '../lib/poll.js';
import { href, refine } from '../lib/router.js';
import { Badge, Choice, Heading, Panel } from '../parts/basics.js';
import { ReadOnly } from '../parts/access.js';
import { Listing, Search } from '../parts/table.js';

const LIMIT = 50;
export const KINDS = ['Gateway', 'Service', 'Api', 'Plan', 'Tenant', 'RateLimits'];

export function Policies({ query }) {
  const [kind, search, refused, after] = ['kind', 'search', 'refused', 'after'].map((name) => query.get(name) ?? '');
  const asked = usePoll(path('/v1/policies', { kind, search, refused, after, limit: LIMIT }), { events: ['generation', 'refused'] });
  const columns = [
    { name: 'Kind', of: (row) => html`<span class="muted">${row.kind ?? '?'}</span>` },
    { name: 'Name', grow: true, of: (row) => html`<${Name} row=${row} />` },
    { name: 'State', of: (row) => html`<${Badge} word=${stateOf(row)} />` },
    { name: 'Stands in', less: true, of: (row) => html`<span class="mono muted">${row.origin}</span>` },
    { name: 'Revision', number: true, less: true, of: (row) => row.revision ?? html`<span class="muted">–</span>` },
  ];
  return html`
    <${Heading} title="Policies" actions=${html`<a class="button" href=${href(['policies', 'new'], { kind })}>New policy</a>`}>The documents that are served, and those that are refused.<//>
    <${ReadOnly} />
    <div class="filters">
      <${Search} value=${search} label="Part of a name" />
      <${Choice} label="Kind" value=${kind} options=${[['', 'all kinds'], ...KINDS]} onChoose=${(chosen) => refine({ kind: chosen })} />
      <label class="check"><input type="checkbox" checked=${refused === 'true'} onChange=${(event) => refine({ refused: event.target.checked ? 'true' : '' })} /><span>refused only</span></label>
    </div>
    <${Panel} flush>
      <${Listing} label="Policies" asked=${asked} after=${after} columns=${columns} rows=${asked.data?.documents ?? []} keyOf=${(row) => `${row.kind} ${row.name} ${row.origin}`}
        empty=${refused ? 'No document is refused.' : 'No document is like that.'} />
    <//>`;
}

export function stateOf(row) {
  if (!row.served) return 'refused';
  return row.refused ? 'older version' : 'served';
}

function Name({ row }) {
  const problems = row.refused?.problems ?? row.problems ?? [];
  const reason = problems[0] && html`<span class="reason">${problems[0].message}</span>`;
  if (!row.kind || !row.name) return html`<span class="mono">${row.origin}</span>${reason}`;
  return html`<a class="name" href=${href(['policies', row.kind, row.name])}>${row.name}</a>${reason}`;
}
