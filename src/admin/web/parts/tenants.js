// Tenants with what they asked for and were denied.

import { html } from '../vendor/preact.js';
import { count, percent } from '../lib/format.js';
import { href } from '../lib/router.js';
import { Meter } from './basics.js';
import { Table } from './table.js';

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
