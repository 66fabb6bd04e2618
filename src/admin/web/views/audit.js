// Who changed what, and what came of it.

import { html } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { usePoll } from '../lib/poll.js';
import { refine } from '../lib/router.js';
import { Absent, Heading, Panel, Time } from '../parts/basics.js';
import { Outcome, what } from '../parts/event.js';
import { Table } from '../parts/table.js';

const LIMIT = 50;

export function Audit({ query }) {
  const before = query.get('before') ?? '';
  const asked = usePoll(path('/v1/audit', { before, limit: LIMIT }), { events: ['change'] });
  const entries = asked.data?.entries ?? [];
  const columns = [
    { name: 'When', of: (entry) => html`<span class="muted"><${Time} at=${entry.at} /></span>` },
    { name: 'Who', of: (entry) => html`<b>${entry.who}</b>` },
    { name: 'What', grow: true, of: (entry) => html`${what(entry)}${entry.force && html`<span class="reason">because: ${entry.force}</span>`}` },
    { name: 'Made from', number: true, less: true, of: (entry) => entry.base ?? html`<span class="muted">–</span>` },
    { name: 'Result', wrap: true, of: (entry) => html`<${Outcome} of=${entry.result} />` },
  ];
  return html`
    <${Heading} title="Audit">Who changed what, and what came of it, newest first.<//>
    <${Panel} flush>
      ${entries.length === 0 ? html`<${Absent} of=${asked} empty="Nothing was changed through the API." />` : html`
        <${Table} label="Audit" columns=${columns} rows=${entries} keyOf=${(entry) => `${entry.change} ${entry.at}`} />
        ${(before || asked.data.next) && html`<nav class="pager" aria-label="Pages">
          <button type="button" disabled=${!before} onClick=${() => refine({ before: '' })}>Newest</button>
          <button type="button" disabled=${!asked.data.next} onClick=${() => refine({ before: asked.data.next })}>Older</button>
        </nav>`}`}
    <//>`;
}
