// One API: its limits with live use, and who is over them.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { count } from '../lib/format.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Absent, Heading, Panel } from '../parts/basics.js';
import { lately } from '../parts/tenants.js';
import { Frees } from '../parts/uses.js';
import { Table } from '../parts/table.js';
import { Mode, Over, Rate, TIERS, Use, useRates } from './limits.js';

const LIMITS_MAX = 200;
const KEYS_MAX = 100;

export function Api({ gateway, api }) {
  const limits = usePoll(path('/v1/limits', { gateway, api, limit: LIMITS_MAX }), { seconds: 3, events: ['generation'] });
  const top = usePoll(path('/v1/top', { gateway, api, by: 'denied', limit: KEYS_MAX }), { seconds: 3 });
  const rates = useRates(limits.data);
  const rows = limits.data?.limits ?? [];
  const columns = [
    { name: 'Limit', grow: true, of: (limit) => html`<span class="mono">${limit.limit}</span><span class="reason">${TIERS[limit.tier] ?? limit.tier}${limit.algorithm && `, ${limit.algorithm.replaceAll('_', ' ')}`}</span>` },
    { name: 'Rate', of: (limit) => html`<${Rate} limit=${limit} />` },
    { name: 'Mode', less: true, of: (limit) => html`<${Mode} limit=${limit} />` },
    { name: 'In use', of: (limit) => html`<${Use} limit=${limit} />` },
    { name: 'Frees up', number: true, less: true, of: (limit) => html`<${Frees} seconds=${limit.counter?.frees_after_seconds} remaining=${limit.counter?.remaining} />` },
    { name: 'Over, a second', number: true, of: (limit) => html`<${Over} limit=${limit} rates=${rates} />` },
    { name: 'In all', number: true, of: (limit) => count(limit.over_limit + limit.shadow_over_limit) },
  ];
  const keys = (top.data?.keys ?? []).filter((key) => key.denied > 0);
  return html`
    <${Heading} title=${api} actions=${html`<a class="button" href=${href(['explain'], { gateway })}>Why?</a><a class="button" href=${href(['policies', 'Api', api])}>Policy</a>`}>
      <a href=${href(['limits'])}>Limits</a> · gateway ${gateway}
    <//>
    <${Panel} flush title="Limits">${rows.length ? html`<${Table} label="Limits" columns=${columns} rows=${rows} keyOf=${(limit) => `${limit.tier} ${limit.limit}`} />` : html`<${Absent} of=${limits} empty="No limit is of this API." />`}
      ${limits.data?.next && html`<p class="absent">These are the first ${count(LIMITS_MAX)}. <a href=${href(['limits'], { gateway, search: api })}>All of them</a></p>`}<//>
    <${Panel} flush title="Most denied keys" note=${lately(top.data, keys.length, top.data?.keys_more)}><${Keys} top=${top} keys=${keys} /><//>`;
}

function Keys({ top, keys }) {
  if (!keys.length) return html`<${Absent} of=${top} empty="No key was over a limit in the last minute." />`;
  const columns = [
    { name: 'Key', grow: true, of: ({ key, tenant, gateway }) => html`${tenant && html`<a class="name" href=${href(['tenants', tenant], { gateway })}>${tenant}</a> `}<span class="mono">${key.join(', ')}</span>${!tenant && !key.length && 'all callers together'}` },
    { name: 'Limit', of: ({ limit }) => html`<span class="mono">${limit}</span>` },
    { name: 'Decisions', number: true, of: ({ decisions }) => count(decisions) },
    { name: 'Over', number: true, of: ({ denied, shadow }) => html`${count(denied)}${shadow && html` <span class="muted">in shadow</span>`}` },
  ];
  return html`<${Table} label="Most denied keys" columns=${columns} rows=${keys} keyOf=${({ tier, limit, tenant, key }) => [tier, limit, tenant, ...key].join('\n')} />`;
}
