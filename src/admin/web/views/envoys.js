// The connected Envoys: what each has, and what one made of what it was sent.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { count, plural } from '../lib/format.js';
import { usePoll } from '../lib/poll.js';
import { href, refine } from '../lib/router.js';
import { Absent, Ago, Badge, Choice, Facts, Heading, Notice, Panel, Trouble } from '../parts/basics.js';
import { Listing, Search, Table } from '../parts/table.js';

const LIMIT = 50;
const STATES = [['', 'all states'], 'SYNCED', 'STALE', 'REFUSED', 'HELD', 'GONE'];

export function Envoys({ query }) {
  const [state, search, gateway, after] = ['state', 'search', 'gateway', 'after'].map((name) => query.get(name) ?? '');
  const asked = usePoll(path('/v1/nodes', { state, search, gateway, after, limit: LIMIT }), { events: ['node', 'generation'] });
  const columns = [
    { name: 'State', of: (node) => html`<${Badge} word=${node.state} />` },
    { name: 'Envoy', grow: true, of: (node) => html`<a class="name" href=${href(['envoys', node.id])}>${node.id}</a>${node.state !== 'SYNCED' && html`<span class="reason">${node.reason}</span>`}` },
    { name: 'Gateway', of: (node) => node.groups.join(', ') || html`<span class="muted">none</span>` },
    { name: 'Version', less: true, of: (node) => node.envoy },
    { name: 'Generation', number: true, of: (node) => count(node.generation) },
    { name: 'Since', number: true, of: (node) => html`<${Ago} at=${node.since} />` },
  ];
  return html`
    <${Heading} title="Envoys">What each of them has, and what it made of what it was sent.<//>
    <div class="filters">
      <${Search} value=${search} label="Part of the node id" />
      <${Choice} label="State" value=${state} options=${STATES} onChoose=${(chosen) => refine({ state: chosen })} />
      ${gateway && html`<button type="button" onClick=${() => refine({ gateway: '' })}>Gateway ${gateway} ×</button>`}
    </div>
    <${Panel} flush>
      <${Listing} label="Envoys" asked=${asked} after=${after} columns=${columns} rows=${asked.data?.nodes ?? []}
        keyOf=${(node) => `${node.id} ${node.connected_at}`} empty=${search || state || gateway ? 'No Envoy is like that.' : html`No Envoy is connected. <span class="mono">tierflow bootstrap --gateway G</span> prints the bootstrap of one.`} />
    <//>`;
}

export function Envoy({ id }) {
  const asked = usePoll(`/v1/nodes/${encodeURIComponent(id)}`, { seconds: 3, events: ['node', 'generation'] });
  return html`<${Heading} title=${id}><a href=${href(['envoys'])}>Envoys</a><//>
    ${asked.problem?.status === 404 ? html`<${Notice} icon="dash">${asked.problem.message}<//>` : !asked.data && html`<${Absent} of=${asked} />`}
    ${asked.data?.nodes.map((node) => html`<${Node} key=${node.connected_at} node=${node} />`)}`;
}

function Node({ node }) {
  return html`
    <${Facts} rows=${[
      ['State', html`<${Badge} word=${node.state} /> <span class="muted">since <${Ago} at=${node.since} /></span>`],
      ['Reason', node.reason],
      ['Gateway', node.groups.map((name) => html`<a href=${href(['policies', 'Gateway', name])}>${name}</a> `)],
      ['Generation', count(node.generation)],
      ['Envoy', node.envoy],
      ['Protocol', node.protocol],
      ['Cluster', node.cluster],
      ['Connected', html`<${Ago} at=${node.connected_at} />`],
      ['Metadata', Object.entries(node.metadata).map(([key, value]) => `${key}=${value}`).join(', ')],
    ]} />
    ${Object.entries(node.types).filter(([, status]) => status.refused).map(([type, { refused }]) => html`<${Refused} key=${type} type=${type} refused=${refused} />`)}
    ${node.too_old_for.map((need) => html`<${TooOld} key=${need.feature} need=${need} envoy=${node.envoy} />`)}
    <${Panel} flush title="Resources" note="by type, as generation and version"><${Types} types=${node.types} /><//>`;
}

function Refused({ type, refused }) {
  return html`<section class="panel words bad">
    <div class="panel-head"><h2><${Badge} word="REFUSED" /> ${type}</h2><span class="note"><${Ago} at=${refused.since} /></span></div>
    <p>In Envoy's own words${refused.resources.length > 0 && html`, about ${refused.resources.map((name) => html`<span class="mono">${name}</span> `)}`}:</p>
    <pre class="quote">${refused.message}</pre>
  </section>`;
}

function TooOld({ need, envoy }) {
  return html`<${Notice} tone="warn" icon="warning">
    <p>Envoy ${envoy} ${need.older === 'refuses' ? 'refuses' : 'ignores'} <b>${need.feature}</b>, which Envoys know since ${need.since}.</p>
    <p class="muted">Needed by ${need.documents.join(', ')}${need.others > 0 && ` and ${count(need.others)} more`}.</p>
  <//>`;
}

function Types({ types }) {
  const columns = [
    { name: 'Type', of: ([type]) => type },
    { name: 'Subscribed', of: ([, { subscribed }]) => (subscribed.all ? 'all' : plural(subscribed.names, 'name')) },
    { name: 'Sent', of: ([, { sent }]) => html`<${Sent} sent=${sent} />` },
    { name: 'Acknowledged', of: ([, { acknowledged }]) => html`<${Sent} sent=${acknowledged} />` },
    { name: 'State', of: ([, status]) => html`<${Badge} word=${typeState(status)} />` },
  ];
  return html`<${Table} label="Resources by type" columns=${columns} rows=${Object.entries(types)} keyOf=${([type]) => type} />`;
}

function Sent({ sent }) {
  if (!sent) return html`<span class="muted">–</span>`;
  return html`${count(sent.generation)} <span class="mono muted" title=${sent.version}>${sent.version.slice(0, 8)}</span>`;
}

function typeState({ refused, late, pending_since: pending }) {
  if (refused) return 'REFUSED';
  return late || pending ? 'STALE' : 'SYNCED';
}
