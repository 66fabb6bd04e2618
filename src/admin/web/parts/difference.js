// What a change would do: to the text, to limits and what they counted, and to what Envoys are sent.

import { html } from '../vendor/preact.js';
import { plural } from '../lib/format.js';
import { compare, hunks } from '../lib/lines.js';
import { Badge } from './basics.js';
import { Icon } from './icons.js';

export function TextDifference({ before, after, label = 'Difference of the texts' }) {
  const lines = hunks(compare(before, after));
  const words = { '+': 'added: ', '-': 'removed: ', ' ': '' };
  const classes = { '+': 'come', '-': 'gone', ' ': '' };
  return html`<div class="code difference" tabindex="0" role="region" aria-label=${label}><pre><code>${lines.map((line, index) => (line === null
    ? html`<span class="line gap" key=${index}>⋯${'\n'}</span>`
    : html`<span class="line ${classes[line.sign]}" key=${index}><span class="sign" aria-hidden="true">${line.sign}</span><span class="unseen">${words[line.sign]}</span>${line.text}${'\n'}</span>`))}</code></pre></div>`;
}

const COUNTERS = { kept: 'what was counted stays', new: 'its counters start anew', dropped: 'its counters are forgotten' };

// As POST /v1/diff has it.
export function Meaning({ difference }) {
  const { documents, limits, pushes } = difference;
  if (!documents.length && !limits.length && !pushes.length) return html`<p class="absent">It means the same as what is served. Comments and spaces mean nothing.</p>`;
  return html`<ul class="meaning">
    ${documents.map(({ kind, name, change }) => html`<li><${Badge} word=${change} /><span>${kind} <b>${name}</b></span></li>`)}
    ${limits.map((limit) => html`<li><${Badge} word=${limit.change} /><span>
      limit <b class="mono">${limit.limit}</b> of ${limit.of}${limit.fields.map(({ field, from, to }) => html`, ${field} <s>${from}</s> <${Icon} name="arrow" /><span class="unseen">to</span> <b>${to}</b>`)}
      <span class="muted"> · ${COUNTERS[limit.counters]}</span></span></li>`)}
    ${pushes.length === 0
      ? html`<li><${Badge} word="nothing pushed" sign="done" /><span>Envoys keep what they have: it is effective at once.</span></li>`
      : pushes.map((push) => html`<li><${Badge} word="pushed" sign="changed" /><span>${push.type} of gateway <b>${push.gateway}</b>: ${pushed(push)}</span></li>`)}
  </ul>`;
}

function pushed({ added, changed, removed }) {
  const told = [[added, 'added'], [changed, 'changed'], [removed, 'removed']].filter(([names]) => names.length);
  return told.map(([names, word]) => `${names.length <= 4 ? names.join(', ') : plural(names.length, 'resource')} ${word}`).join('; ');
}
