// Tenants: who is denied most, who asks most, and everybody by name.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { usePoll } from '../lib/poll.js';
import { href, refine } from '../lib/router.js';
import { Absent, Ago, Badge, Choice, Heading, Panel } from '../parts/basics.js';
import { Listing, Search } from '../parts/table.js';
import { lately, Missed, TenantTable } from '../parts/tenants.js';

const LIMIT = 50;
const TOP = 20;
const ORDERS = [['denied', 'most denied'], ['decisions', 'busiest']];

export function Tenants({ query }) {
  const [search, by, after] = [query.get('search') ?? '', query.get('by') || 'denied', query.get('after') ?? ''];
  return html`
    <${Heading} title="Tenants" actions=${html`<a class="button" href=${href(['policies', 'new'], { kind: 'Tenant' })}>New tenant</a>`}>Who asks, who is denied, and what each may do.<//>
    <div class="filters">
      <${Search} value=${search} label="Part of a tenant's name" />
      <${Choice} label="Order" value=${by} options=${ORDERS} onChoose=${(chosen) => refine({ by: chosen })} />
    </div>
    <${Busy} by=${by} search=${search} />
    <${Declared} search=${search} after=${after} />`;
}

// Those with the text in their names, however little they ask for, as long as the server knows of them.
function Busy({ by, search }) {
  const top = usePoll(path('/v1/top', { by, search, limit: TOP }), { seconds: 3 });
  const tenants = (top.data?.tenants ?? []).filter((tenant) => tenant[by] > 0);
  const whose = search ? html`No tenant with “${search}” in its name` : 'No tenant';
  return html`<${Panel} flush title=${by === 'denied' ? 'Most denied' : 'Busiest'} note=${lately(top.data, tenants.length, top.data?.tenants_more)}>
    ${tenants.length ? html`<${TenantTable} tenants=${tenants} />` : html`<${Absent} of=${top} empty=${html`${whose} ${by === 'denied' ? 'was denied anything' : 'asked for anything'} in the last minute.`} />`}
    <${Missed} told=${top.data} verb=${by === 'denied' ? 'denials' : 'requests'} />
  <//>`;
}

// Those that have a document of their own. All others are on the default plan of their gateway.
function Declared({ search, after }) {
  const asked = usePoll(path('/v1/policies', { kind: 'Tenant', search, after, limit: LIMIT }), { seconds: 10, events: ['generation'] });
  const columns = [
    { name: 'Tenant', grow: true, of: (row) => html`<a class="name" href=${href(['tenants', row.name])}>${row.name}</a>` },
    { name: 'Stands in', less: true, of: (row) => html`<span class="mono muted">${row.origin}</span>` },
    { name: 'State', of: (row) => html`<${Badge} word=${row.refused ? 'older version' : row.served ? 'served' : 'refused'} />` },
    { name: 'Revision', number: true, less: true, of: (row) => row.revision ?? html`<span class="muted">–</span>` },
  ];
  const rows = (asked.data?.documents ?? []).filter((row) => row.name);
  return html`<${Panel} flush title="With a document of their own" note="all others are on the default plan of their gateway">
    <${Listing} label="Tenants" asked=${asked} after=${after} columns=${columns} rows=${rows} keyOf=${(row) => `${row.origin} ${row.name}`}
      empty=${search ? html`No document of a tenant has “${search}” in its name. <a href=${href(['tenants', search])}>Look at the tenant ${search}</a> all the same.` : 'No tenant has one.'} />
  <//>`;
}
