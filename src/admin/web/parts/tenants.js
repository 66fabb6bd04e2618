// Tenants with what they asked for and were denied.

import { html } from '../vendor/preact.js';
import { count, percent } from '../lib/format.js';
import { href } from '../lib/router.js';
import { Meter } from './basics.js';
import { Table } from './table.js';

// What a list of the last minute is, and what it is not: the largest alone are known, and of these the first are told.
export function lately(told, shown, more) {
  const words = ['the last minute'];
  if (told?.exact === false) words.push('estimated');
  if (more > 0) words.push(`the first ${count(shown)} of ${count(shown + more)}`);
  return words.join(', ');
}

// What those have at most who are not among them.
export function Missed({ told, verb }) {
  const most = told?.tenants_missed_max;
  return most > 0 && html`<p class="absent">Tenants with fewer than ${count(most)} ${verb} in the last minute may be missing.</p>`;
}

export function TenantTable({ tenants }) {
  const columns = [
    { name: 'Tenant', grow: true, of: (row) => html`<a class="name" href=${href(['tenants', row.tenant], { gateway: row.gateway })}>${row.tenant}</a>` },
    { name: 'Gateway', less: true, of: (row) => html`<span class="muted">${row.gateway}</span>` },
    { name: 'Decisions', number: true, of: (row) => count(row.decisions) },
    { name: 'Denied', number: true, of: (row) => count(row.denied) },
    { name: 'Share', number: true, of: (row) => html`<span class="share"><${Meter} used=${row.denied} of=${row.decisions} tone="denied" label="Denied share of ${row.tenant}" /><span>${percent(row.denied, row.decisions)}</span></span>` },
  ];
  return html`<${Table} label="Tenants" columns=${columns} rows=${tenants} keyOf=${(row) => `${row.gateway}/${row.tenant}`} />`;
}
