// Why a request is treated as it is. Nothing is counted.

import { html, useEffect, useState } from '../vendor/preact.js';
import { get, documentPath, post } from '../lib/api.js';
import { count, duration } from '../lib/format.js';
import { sampleOf, tenantHeaderOf } from '../lib/hints.js';
import { usePoll } from '../lib/poll.js';
import { href, refine } from '../lib/router.js';
import { Badge, Field, Heading, Meter, Panel, Trouble } from '../parts/basics.js';
import { Table } from '../parts/table.js';

const FIELDS = ['gateway', 'method', 'path', 'host', 'client_ip', 'headers'];
const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'];

export function Explain({ query }) {
  const given = Object.fromEntries(FIELDS.map((name) => [name, query.get(name)]).filter(([, value]) => value));
  return html`
    <${Heading} title="Why?">What becomes of a request, and which limits have a part in it. Nothing is counted.<//>
    <${Question} given=${given} onAsk=${(asked) => refine(asked)} />`;
}

// `tenant`: whose request it is, in the header that the gateway finds that in.
export function Question({ given = {}, tenant, onAsk }) {
  const [asked, setAsked] = useState({ method: 'GET', path: '', host: '', client_ip: '', headers: '', gateway: '', ...given });
  const [answer, setAnswer] = useState({});
  const gateways = usePoll('/v1/policies?kind=Gateway&limit=100', { seconds: 0 });
  const apis = usePoll('/v1/policies?kind=Api&limit=200', { seconds: 0 });
  const set = (name) => (event) => setAsked((old) => ({ ...old, [name]: event.target.value }));
  const names = (told) => (told.data?.documents ?? []).filter((row) => row.served).map((row) => row.name);

  const gateway = asked.gateway || names(gateways)[0];
  useEffect(() => {
    if (!tenant || !gateway) return;
    get(documentPath('Gateway', gateway)).then(({ text }) => {
      const header = tenantHeaderOf(text);
      if (header) setAsked((old) => ({ ...old, gateway, headers: `${header}: ${tenant}` }));
    }).catch(() => {});
  }, [tenant, gateway]);

  const like = async (event) => {
    const { text } = await get(documentPath('Api', event.target.value)).catch(() => ({}));
    if (text) setAsked((old) => ({ ...old, ...sampleOf(text) }));
  };
  const submit = async (event) => {
    event.preventDefault();
    onAsk?.(asked);
    setAnswer(await answerOf(asked));
  };
  return html`
    <form class="panel question" onSubmit=${submit}>
      <${Field} label="Like API"><select onChange=${like}><option value="">choose…</option>${names(apis).map((name) => html`<option value=${name}>${name}</option>`)}</select><//>
      <${Field} label="Method"><select value=${asked.method} onChange=${set('method')}>${METHODS.map((name) => html`<option value=${name} selected=${name === asked.method}>${name}</option>`)}</select><//>
      <div class="wide"><${Field} label="Path and query"><input name="path" required value=${asked.path} onInput=${set('path')} placeholder="/order/7?full=1" spellcheck=${false} /><//></div>
      <${Field} label="Gateway"><select value=${asked.gateway} onChange=${set('gateway')}><option value="">all</option>${names(gateways).map((name) => html`<option value=${name} selected=${name === asked.gateway}>${name}</option>`)}</select><//>
      <${Field} label="Client address"><input name="client_ip" value=${asked.client_ip} onInput=${set('client_ip')} placeholder="127.0.0.1" spellcheck=${false} /><//>
      <${Field} label="Host"><input name="host" value=${asked.host} onInput=${set('host')} placeholder="shop.example" spellcheck=${false} /><//>
      <${Field} label="Headers, one a line"><textarea name="headers" rows="2" value=${asked.headers} onInput=${set('headers')} placeholder="x-tenant-id: acme" spellcheck=${false}></textarea><//>
      <div class="actions"><button class="primary">Ask why</button></div>
    </form>
    <div aria-live="polite">
      ${answer.problem && html`<${Trouble} problem=${answer.problem} />`}
      ${answer.told?.explanations.map((told) => html`<${Answer} key=${told.gateway} told=${told} />`)}
    </div>`;
}

async function answerOf(asked) {
  const headers = asked.headers.split('\n').filter((line) => line.includes(':')).map((line) => {
    const colon = line.indexOf(':');
    return { name: line.slice(0, colon).trim(), value: line.slice(colon + 1).trim() };
  });
  const request = { ...asked, headers };
  ['gateway', 'client_ip'].forEach((name) => request[name] || delete request[name]);
  try {
    const { told } = await post('/v1/explain', request, { headers: { 'content-type': 'application/json' } });
    return { told };
  } catch (problem) {
    return { problem };
  }
}

function Answer({ told }) {
  const columns = [
    { name: 'Limit', grow: true, of: (limit) => html`<span class="mono">${limit.name}</span> <span class="muted">${limit.tier}</span>` },
    { name: 'Rate', of: (limit) => html`<b>${limit.rate}</b>` },
    { name: 'Counts by', less: true, of: (limit) => limit.by.map((part) => html`<span class="mono">${part}</span> `) },
    { name: 'Used', of: (limit) => html`<span class="use"><${Meter} used=${limit.used} of=${limit.used + limit.remaining} label="Used of ${limit.name}" /><span class="numbers-of">${count(limit.used)} <span class="muted">of ${count(limit.used + limit.remaining)}</span></span></span>` },
    { name: 'Frees up', number: true, of: (limit) => (limit.used ? `in ${duration(limit.frees_after_seconds)}` : html`<span class="muted">–</span>`) },
    { name: 'Now', of: (limit) => html`<${Badge} word=${limit.allows ? 'room' : limit.mode === 'shadow' ? 'over, in shadow' : 'denies'} sign=${limit.allows ? 'served' : limit.mode === 'shadow' ? 'older version' : 'denied'} />` },
  ];
  return html`<section class="panel flush answer">
    <div class="panel-head"><h2>At gateway ${told.gateway}</h2></div>
    <p class="verdict"><${Verdict} told=${told} /></p>
    ${told.limits.length > 0 && html`<${Table} label="Limits that have a part in it" columns=${columns} rows=${told.limits} keyOf=${(limit) => `${limit.tier} ${limit.name}`} />`}
    ${told.passed_over.length > 0 && html`<details class="passed-over"><summary>What has no part in it, and why <span class="muted">${told.passed_over.length}</span></summary>
      <ul>${told.passed_over.map(({ what, name, reason }) => html`<li>${what === 'api' ? 'API' : what} <b class="mono">${name}</b> <span class="muted">${reason}</span></li>`)}</ul></details>`}
  </section>`;
}

function Verdict({ told }) {
  const api = told.api && html`API <a href=${href(['limits', told.gateway, told.api])}>${told.api}</a>`;
  const whose = told.tenant && html`, tenant <a href=${href(['tenants', told.tenant], { gateway: told.gateway })}>${told.tenant}</a>`;
  if (told.answer) return html`<${Badge} word="Envoy answers ${told.answer.status}" sign="denied" /> ${told.answer.reason}`;
  if (!told.api) return html`<${Badge} word="404" sign="denied" /> No API takes it.`;
  if (told.preflight) return html`<${Badge} word="allowed" /> It is a preflight, which Envoy answers itself.`;
  if (told.denied) return html`<${Badge} word="denied" /> ${api}${whose}: ${told.denied}`;
  if (told.denied_by.length) {
    const waits = told.limits.filter((limit) => told.denied_by.includes(limit.name)).map((limit) => limit.frees_after_seconds);
    return html`<${Badge} word="denied" /> ${api}${whose}: no room in <b class="mono">${told.denied_by.join(', ')}</b>, for another ${duration(Math.max(...waits))}`;
  }
  return html`<${Badge} word="allowed" /> ${api}${whose}${told.limits.length === 0 && ': no limit has a part in it'}`;
}
