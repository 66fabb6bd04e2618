// One policy: its text with what is wrong with it, and the way to change it.

import { html, useEffect, useState } from '../vendor/preact.js';
import { ask, documentPath, revisionOf } from '../lib/api.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Absent, Ago, Badge, Facts, Heading, Notice, Panel, Trouble } from '../parts/basics.js';
import { Change } from '../parts/change.js';
import { Code, Problems } from '../parts/code.js';
import { KINDS, stateOf } from './policies.js';

export function Policy({ kind, name }) {
  const asked = usePoll(documentPath(kind, name), { seconds: 10, events: ['generation', 'refused'] });
  const edit = href(['policies', kind, name, 'edit']);
  return html`
    <${Heading} title=${`${kind} ${name}`} actions=${asked.data && html`<a class="button primary" href=${edit}>Change</a>`}><a href=${href(['policies'], { kind })}>Policies</a><//>
    ${asked.data ? html`<${Document} told=${asked.data} />` : html`<${Absent} of=${asked} />`}`;
}

function Document({ told }) {
  const refusal = told.refused ?? (told.served ? null : told);
  return html`
    <${Facts} rows=${[
      ['State', html`<${Badge} word=${stateOf(told)} />`],
      ['Stands in', html`<span class="mono">${told.origin}</span>`],
      ['Revision', told.revision],
      ['Refused', refusal && html`<${Ago} at=${refusal.since} />`],
    ]} />
    ${refusal && html`<${Panel} title=${told.served ? 'What stands in the source is refused' : 'It is refused'} note=${told.served ? 'its last good version is served' : 'nothing of it is served'}>
      <${Problems} problems=${refusal.problems} more=${refusal.problems_more} />
      ${told.refused_text !== null && told.refused_text !== undefined && html`<${Code} label="Text that is refused" text=${told.refused_text} problems=${refusal.problems} />`}
    <//>`}
    ${told.text !== null && told.text !== undefined && html`<${Panel} title=${refusal ? 'What is served' : undefined}><${Code} label="Text that is served" text=${told.text} /><//>`}`;
}

// The text as it is now, with the revision that a change of it is made from.
async function load(kind, name) {
  const { told, headers } = await ask('GET', documentPath(kind, name));
  return { text: told.refused_text ?? told.text ?? '', served: told.text ?? '', base: revisionOf(headers), isRefused: Boolean(told.refused) || !told.served };
}

export function EditPolicy({ kind, name }) {
  const [start, setStart] = useState({});
  useEffect(() => {
    load(kind, name).then((version) => setStart({ version }), (problem) => setStart({ problem }));
  }, [kind, name]);
  return html`
    <${Heading} title=${`Change ${kind} ${name}`}><a href=${href(['policies', kind, name])}>${kind} ${name}</a><//>
    ${start.problem && html`<${Trouble} problem=${start.problem} />`}
    ${start.version?.isRefused && html`<${Notice} tone="warn" icon="warning">This is the text that is refused, so that it can be mended.<//>`}
    ${start.version && html`<${Change} kind=${kind} name=${name} version=${start.version} load=${() => load(kind, name)} />`}`;
}

const TEMPLATES = {
  Tenant: (name) => `kind: Tenant\nname: ${name || 'acme'}\nplan: standard\n`,
  Plan: (name) => `kind: Plan\nname: ${name || 'silver'}\nlimits:\n  - rate: 600/minute\n`,
  Api: (name) => `kind: Api\nname: ${name || 'order-list'}\ngateway: shop\nmatch: { path_prefix: /orders, methods: [GET] }\nservice: order\nlimits:\n  - rate: 1000/minute\n`,
  Service: (name) => `kind: Service\nname: ${name || 'order'}\nendpoints: ["127.0.0.1:9001"]\n`,
  Gateway: (name) => `kind: Gateway\nname: ${name || 'shop'}\nnodes: { clusters: [shop-edge] }\nlisten: 127.0.0.1:10000\n`,
  RateLimits: (name) => `kind: RateLimits\nname: ${name || 'lists'}\n`,
};

// A name in YAML: quoted where it could be read as something else.
function scalar(name) {
  return !name || /^[A-Za-z][\w.-]*$/.test(name) ? name : JSON.stringify(name);
}

export function NewPolicy({ query }) {
  const kind = KINDS.includes(query.get('kind')) ? query.get('kind') : 'Tenant';
  const version = { text: TEMPLATES[kind](scalar(query.get('name'))), served: '', base: '0' };
  return html`
    <${Heading} title=${`New ${kind}`}><a href=${href(['policies'], { kind })}>Policies</a><//>
    <div class="filters">${KINDS.map((other) => html`<a class="button" aria-current=${other === kind ? 'page' : undefined} href=${href(['policies', 'new'], { kind: other })}>${other}</a>`)}</div>
    <${Change} key=${kind} kind=${kind} version=${version} />`;
}
