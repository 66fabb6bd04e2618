// What happened, in one line each.

import { html } from '../vendor/preact.js';
import { count, plural } from '../lib/format.js';
import { href } from '../lib/router.js';
import { Badge, Time } from './basics.js';

export function EventList({ events, empty }) {
  if (!events.length) return html`<p class="absent">${empty}</p>`;
  return html`<ol class="events">${events.map((event) => html`<li key=${event.id || event.at}>
    <span class="muted"><${Time} at=${event.at} /></span><span class="what">${Words(event)}</span>
  </li>`)}</ol>`;
}

function Words({ name, data }) {
  switch (name) {
    case 'generation':
      return html`Generation <b>${count(data.generation)}</b> is served <span class="muted">revision ${data.revision}</span>`;
    case 'refused':
      return data.count === 0 ? html`No document is refused any more` : html`<${Badge} word="refused" /> ${plural(data.count, 'document')}: ${documents(data)}`;
    case 'node':
      return html`<${Badge} word=${data.state} /> <a href=${href(['envoys', data.id])}>${data.id}</a> <span class="muted">${(data.gateways ?? []).join(', ')}</span>`;
    case 'nodes':
      return html`The state of <a href=${href(['envoys'])}>${plural(data.changed, 'Envoy')}</a> has changed`;
    case 'change':
      return html`<b>${data.who}</b> ${what(data)} <${Outcome} of=${data.result} />`;
    default:
      return name;
  }
}

function documents({ documents = [], count: all }) {
  const named = documents.slice(0, 3).map(({ kind, name, message }, index) => html`${index > 0 && ', '}${kind ? html`<a href=${href(['policies', kind, name])}>${kind} ${name}</a>` : 'a document'} <span class="muted">${message}</span>`);
  return html`${named}${all > 3 && ` and ${count(all - 3)} more`}`;
}

export function what({ what: changes, what_more: more = 0 }) {
  const others = more + Math.max(0, changes.length - 3);
  const first = changes.slice(0, 3).join(', ');
  return others > 0 ? `${first} and ${count(others)} more` : first;
}

// As the audit log has it: {revision}, {reset} or {refused}.
export function Outcome({ of }) {
  if (!of) return html`<${Badge} word="asked for" sign="enforce" />`;
  if (of.refused !== undefined) return html`<span><${Badge} word="refused" /> <span class="muted">${of.refused}</span></span>`;
  if (of.reset !== undefined) return html`<${Badge} word=${plural(of.reset, 'counter')} sign="done" />`;
  return html`<${Badge} word="revision ${of.revision}" sign="done" />`;
}
