// One tenant: its plan, what is left of its limits, how it goes now, and why.

import { html, useEffect, useState } from '../vendor/preact.js';
import { documentPath, path } from '../lib/api.js';
import { count, percent, rate } from '../lib/format.js';
import { fieldOf } from '../lib/hints.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Absent, Badge, Facts, Heading, Panel, Trouble } from '../parts/basics.js';
import { Sparkline } from '../parts/chart.js';
import { Frees, LiveUse } from '../parts/uses.js';
import { Table } from '../parts/table.js';
import { Question } from './explain.js';
import { Mode } from './limits.js';

// A tenant has a row for each gateway.
const GATEWAYS_MAX = 1000;
const MINUTE = 60;
const LOOKS_MAX = 60;

export function Tenant({ name, gateway }) {
  const own = usePoll(documentPath('Tenant', name), { seconds: 10, events: ['generation'] });
  const counters = usePoll(path('/v1/counters', { tenant: name, tier: 'tenant', gateway }), { seconds: 2, events: ['generation'] });
  const isDeclared = own.problem?.status !== 404;
  const change = isDeclared ? href(['policies', 'Tenant', name, 'edit']) : href(['policies', 'new'], { kind: 'Tenant', name });
  return html`
    <${Heading} title=${name} actions=${html`<a class="button primary" href=${change}>${isDeclared ? 'Change' : 'Give it a plan'}</a>`}>
      <a href=${href(['tenants'])}>Tenants</a>${gateway && html` · gateway ${gateway}`}
    <//>
    <${Plan} own=${own} isDeclared=${isDeclared} name=${name} />
    <${Lately} name=${name} gateway=${gateway} />
    <${Panel} flush title="Limits" note="what is left of each now"><${Left} counters=${counters} /><//>
    <h2 class="between">Why is a request of ${name} treated as it is?</h2>
    <${Question} tenant=${name} given=${gateway ? { gateway } : {}} />`;
}

function Plan({ own, isDeclared, name }) {
  if (!isDeclared) return html`<p class="well muted">It has no document of its own, and so the default plan of its gateway.</p>`;
  if (!own.data) return html`<${Absent} of=${own} />`;
  const { text, served, refused, revision } = own.data;
  const plan = fieldOf(text, 'plan');
  return html`<${Facts} rows=${[
    ['Plan', plan && html`<a href=${href(['policies', 'Plan', plan])}>${plan}</a>`],
    ['Status', fieldOf(text, 'status') ?? 'active'],
    ['Document', html`<a href=${href(['policies', 'Tenant', name])}>Tenant ${name}</a>`],
    ['State', html`<${Badge} word=${refused ? 'older version' : served ? 'served' : 'refused'} />`],
    ['Revision', revision],
  ]} />`;
}

// What the last minute says, looked at again and again. Of two lists each knows more of its own measure.
function Lately({ name, gateway }) {
  const lists = ['denied', 'decisions'].map((by) => usePoll(path('/v1/top', { gateway, tenant: name, by, limit: GATEWAYS_MAX }), { seconds: 3 }));
  const [looks, setLooks] = useState([]);
  const found = lists.map(({ data }) => data?.tenants ?? []).find((rows) => rows.length) ?? [];
  const sum = (of) => found.reduce((all, row) => all + row[of], 0);
  const [decisions, denied] = [sum('decisions'), sum('denied')];
  const told = lists[0].data;
  useEffect(() => {
    if (told) setLooks((old) => [...old, denied / MINUTE].slice(-LOOKS_MAX));
  }, [told]);
  // Whoever has no place among the largest has less than they.
  const minute = (number, { data }) => {
    const most = found.length ? 0 : data?.tenants_missed_max ?? 0;
    return most > 0 ? `at most ${count(most)} in the last minute` : `${count(number)} in the last minute`;
  };
  return html`<dl class="numbers">
    <div><dt>Decisions a second</dt><dd>${told ? rate(decisions / MINUTE) : '–'}<small>${minute(decisions, lists[1])}</small></dd></div>
    <div><dt>Denied a second</dt><dd>${told ? rate(denied / MINUTE) : '–'}<small>${minute(denied, lists[0])}</small></dd></div>
    <div><dt>Denied</dt><dd>${percent(denied, decisions)}<small>of its requests</small></dd></div>
    <div class="trend"><dt>Denied lately</dt><dd><${Sparkline} values=${looks.length > 1 ? looks : [0, 0]} label="Denied a second, since the page was opened" /></dd></div>
  </dl>`;
}

function Left({ counters }) {
  const rows = counters.data?.counters ?? [];
  if (counters.problem && !counters.data) return html`<${Trouble} problem=${counters.problem} />`;
  if (!rows.length) return html`<${Absent} of=${counters} empty="No limit of a plan counts its requests." />`;
  const columns = [
    { name: 'Limit', grow: true, of: (counter) => html`<span class="mono">${counter.limit}</span>` },
    { name: 'API', of: (counter) => (counter.api ? html`<a href=${href(['limits', counter.gateway, counter.api])}>${counter.api}</a>` : html`<span class="muted">all</span>`) },
    { name: 'Gateway', less: true, of: (counter) => html`<span class="muted">${counter.gateway}</span>` },
    { name: 'Rate', of: (counter) => html`<b>${counter.rate}</b>` },
    { name: 'Mode', less: true, of: (counter) => html`<${Mode} limit=${counter} />` },
    { name: 'Used', of: (counter) => html`<${LiveUse} name=${counter.limit} use=${counter} />` },
    { name: 'Left', number: true, of: (counter) => count(counter.remaining) },
    { name: 'Frees up', number: true, of: (counter) => html`<${Frees} seconds=${counter.frees_after_seconds} remaining=${counter.remaining} />` },
  ];
  const more = counters.data.total - rows.length;
  return html`${more > 0 && html`<p class="absent">These are the first ${count(rows.length)} of ${count(counters.data.total)}.</p>`}<${Table} label="Limits" columns=${columns} rows=${rows} keyOf=${(counter) => [counter.gateway, counter.api, counter.list, counter.limit].join('\n')} />`;
}
