// Everything at a glance: what is decided, what is wrong, and what happened last.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { count, duration, micros, percent, plural, rate } from '../lib/format.js';
import { useLive } from '../lib/live.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Absent, Badge, Heading, Panel, Trouble } from '../parts/basics.js';
import { totals, TrafficChart } from '../parts/chart.js';
import { EventList } from '../parts/event.js';
import { Findings, findingsOf } from '../parts/findings.js';
import { TenantTable } from '../parts/tenants.js';

// Single seconds jump about; ten of them say how it is now.
const NOW_SECONDS = 10;

export function Overview() {
  const live = useLive();
  const events = ['generation', 'refused', 'node'];
  const status = usePoll('/v1/status', { events });
  const top = usePoll(path('/v1/top', { by: 'denied', limit: 6 }), { seconds: 3 });
  return html`
    <${Heading} title="Overview"><${Serving} status=${status.data} /><//>
    ${status.problem && html`<${Trouble} problem=${status.problem} />`}
    ${status.data && html`<${Findings} found=${findingsOf(status.data)} status=${status.data} />`}
    <${Numbers} seconds=${live.seconds} status=${status.data} />
    <${Panel} title="Decisions a second" note="the last 5 minutes"><${TrafficChart} seconds=${live.seconds} /><//>
    <div class="columns">
      <${Panel} flush title="Most denied tenants" note="the last minute" more=${html`<a href=${href(['tenants'])}>All tenants</a>`}>
        <${MostDenied} top=${top} />
      <//>
      <${Panel} flush title="Health"><${Health} /><//>
    </div>
    <${Panel} flush title="Recent events" more=${html`<a href=${href(['events'])}>All events</a>`}>
      <${EventList} events=${live.events.slice(0, 8)} empty="Nothing has changed since the page was opened." />
    <//>`;
}

function Serving({ status }) {
  if (!status) return 'Loading…';
  const place = status.source?.place;
  return html`${plural(status.documents, 'document')}${place && html` from <span class="mono">${place}</span>`}, revision ${status.revision ?? '–'}, to ${plural(status.nodes.connected, 'Envoy')}`;
}

function Numbers({ seconds, status }) {
  const lately = seconds.slice(-NOW_SECONDS);
  const { decisions, denied, failed } = totals(lately);
  const slowest = lately.map((second) => second.p99_us).filter((us) => us !== null && us !== undefined);
  return html`<dl class="numbers">
    <${Number} name="Decisions a second" value=${lately.length ? rate(decisions / lately.length) : '–'} note=${failed ? `${count(failed)} not decided in 10 s` : 'over 10 s'} />
    <${Number} name="Denied" value=${percent(denied, decisions)} note=${lately.length ? `${rate(denied / lately.length)} a second` : ''} />
    <${Number} name="p99 of a decision" value=${slowest.length ? micros(Math.max(...slowest)) : '–'} note="the slowest of 10 s" />
    <${Number} name="Generation" value=${status?.generation ?? '–'} note=${status ? convergence(status.nodes) : ''} />
  </dl>`;
}

function Number({ name, value, note }) {
  return html`<div><dt>${name}</dt><dd>${value}<small>${note}</small></dd></div>`;
}

function convergence({ connected, live }) {
  if (!connected) return 'no Envoy is connected';
  if (connected === 1) return live ? 'the one Envoy has it' : 'the one Envoy does not have it yet';
  return live === connected ? `all ${plural(connected, 'Envoy')} have it` : `${count(live)} of ${plural(connected, 'Envoy')} have it`;
}

function MostDenied({ top }) {
  const tenants = (top.data?.tenants ?? []).filter((tenant) => tenant.denied > 0);
  if (!tenants.length) return html`<${Absent} of=${top} empty="No tenant was denied anything in the last minute." />`;
  return html`<${TenantTable} tenants=${tenants} />`;
}

const CHECKS = { policies: 'Policies', source: 'Source of policies', documents: 'Documents in the source', refused_documents: 'Refused documents', counter_keys: 'Counters in memory', counter_store: 'Store of counters', audit_log: 'Audit log' };
const SECONDS_CHECKS = ['source'];

function Health() {
  const ready = usePoll('/readyz', { events: ['generation', 'refused'] });
  // It answers 503 with the same rows while nothing is served yet.
  const told = ready.data ?? ready.problem?.body;
  if (!told?.checks) return html`<${Absent} of=${ready} empty="" />`;
  return html`<table class="health" aria-label="Health"><tbody>${told.checks.filter(Boolean).map((check) => html`<tr key=${check.name}>
    <td class="grow">${CHECKS[check.name] ?? check.name}</td>
    <td class="number muted">${measured(check)}</td>
    <td class="end"><${Badge} word=${check.ok ? 'ok' : 'not ok'} /></td>
  </tr>`)}</tbody></table>`;
}

function measured({ name, value, threshold }) {
  if (SECONDS_CHECKS.includes(name)) return value === null ? 'never heard' : `heard ${duration(value)} ago`;
  if (name === 'documents') return value === null ? 'not read yet' : count(value);
  if (name === 'policies') return value === null ? 'none yet' : `generation ${value}`;
  if (name === 'counter_keys') return `${count(value)} of ${count(threshold)}`;
  if (name === 'audit_log') return value ? `${count(value)} waiting` : '';
  if (name === 'counter_store') return plural(value, 'connection');
  return count(value);
}
