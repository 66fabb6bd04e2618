// Everything at a glance: what is decided, what is wrong, and what happened last.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { ago, ahead, count, micros, percent, plural, rate } from '../lib/format.js';
import { useLive } from '../lib/live.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Absent, Ago, Badge, Heading, Panel, Trouble } from '../parts/basics.js';
import { totals, TrafficChart } from '../parts/chart.js';
import { measured, titleOf } from '../parts/checks.js';
import { EventList } from '../parts/event.js';
import { Findings, findingsOf } from '../parts/findings.js';
import { Table } from '../parts/table.js';
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
    <${Certificates} certificates=${status.data?.certificates ?? []} />
    <${DeniedIdentities} denied=${status.data?.denied ?? []} />
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

// The certificates that this server shows and trusts.
function Certificates({ certificates }) {
  if (!certificates.length) return null;
  const columns = [
    { name: 'Flag', of: ({ flag, path }) => html`<span class="mono" title=${path}>${flag}</span>` },
    { name: 'For', grow: true, wrap: true, of: names },
    { name: 'Ends', of: ({ not_after, validity }) => html`<time datetime=${not_after} title=${not_after}>${validity === 'expired' ? ago(not_after) : ahead(not_after)}</time>` },
    { name: 'State', of: ({ validity }) => html`<${Badge} word=${validity} />` },
  ];
  return html`<${Panel} flush title="Certificates" note="shown and trusted by this server"><${Table} label="Certificates" columns=${columns} rows=${certificates} keyOf=${({ flag }) => flag} /><//>`;
}

function names({ names: all, names_more: more, subject }) {
  const shown = all.length ? all.join(', ') : subject;
  return html`<span class="mono" title=${subject}>${shown || 'no name'}</span>${more > 0 && ` and ${more} more`}`;
}

// Those who were refused a gateway because of their certificate.
function DeniedIdentities({ denied }) {
  if (!denied.length) return null;
  const columns = [
    { name: 'Who', of: ({ node }) => html`<span class="mono">${node ?? '–'}</span>` },
    { name: 'Port', less: true, of: ({ port }) => port },
    { name: 'Why', grow: true, wrap: true, of: ({ reason }) => reason },
    { name: 'Times', number: true, of: ({ times }) => count(times) },
    { name: 'Last', of: ({ last_at: at }) => html`<${Ago} at=${at} />` },
  ];
  return html`<${Panel} flush title="Denied identities" note="the last hour"><${Table} label="Denied identities" columns=${columns} rows=${denied} keyOf=${({ port, node, gateway, reason }) => [port, node, gateway, reason].join('\n')} /><//>`;
}

function Health() {
  const ready = usePoll('/readyz', { events: ['generation', 'refused'] });
  // It answers 503 with the same rows while nothing is served yet.
  const told = ready.data ?? ready.problem?.body;
  if (!told?.checks) return html`<${Absent} of=${ready} empty="" />`;
  return html`<table class="health" aria-label="Health"><tbody>${told.checks.filter(Boolean).map((check) => html`<tr key=${check.name}>
    <td class="grow">${titleOf(check)}</td>
    <td class="number muted">${measured(check)}</td>
    <td class="end"><${Badge} word=${check.ok ? 'ok' : 'not ok'} /></td>
  </tr>`)}</tbody></table>`;
}
