// The text of a policy, with what is wrong with it underlined where it stands.

import { html } from '../vendor/preact.js';
import { Icon } from './icons.js';

// Comments and names of fields look different from values: enough to find one's way.
const TOKENS = /(^|\s)(#.*$)|^(\s*(?:-\s+)?)([A-Za-z_][\w.-]*)(?=:)|([{,]\s*)([A-Za-z_][\w.-]*)(?=:)/gm;

function highlight(text) {
  const parts = [];
  let last = 0;
  for (const found of text.matchAll(TOKENS)) {
    const [whole, space, comment, indent, name, comma, inner] = found;
    const lead = space ?? indent ?? comma ?? '';
    parts.push(text.slice(last, found.index), lead);
    parts.push(comment ? html`<span class="comment">${comment}</span>` : html`<span class="name">${name ?? inner}</span>`);
    last = found.index + whole.length;
  }
  parts.push(text.slice(last));
  return parts;
}

// A line in pieces: what is meant by a problem is underlined. Columns count characters, not UTF-16 units.
function underlined(text, problems) {
  if (!problems.length) return highlight(text);
  const characters = Array.from(text);
  const spans = problems.map(({ place }) => [place.column - 1, place.column - 1 + place.width]).sort(([a], [b]) => a - b);
  const parts = [];
  let at = 0;
  for (const [start, end] of spans) {
    if (start < at) continue;
    parts.push(highlight(characters.slice(at, start).join('')));
    parts.push(html`<span class="wrong">${characters.slice(start, end).join('') || ' '}</span>`);
    at = end;
  }
  return [...parts, highlight(characters.slice(at).join(''))];
}

export function Lines({ text, problems = [] }) {
  const lines = text.replace(/\n$/, '').split('\n');
  return lines.map((line, index) => {
    const here = problems.filter(({ place }) => place?.line === index + 1);
    return html`<span class="line ${here.length ? 'troubled' : ''}" key=${index}>${underlined(line, here)}${'\n'}</span>`;
  });
}

export function Code({ text, problems, label }) {
  return html`<div class="code" tabindex="0" role="region" aria-label=${label}><pre><code><${Lines} text=${text} problems=${problems} /></code></pre></div>`;
}

// What is wrong, each with its place. A problem of another document names that.
export function Problems({ problems, more, onChoose }) {
  if (!problems?.length) return null;
  return html`<ol class="problems">${problems.map((problem) => html`<li>
    <${Icon} name="cross" />
    <div>
      ${onChoose && problem.place ? html`<button type="button" class="link mono" onClick=${() => onChoose(problem.place)}>${place(problem)}</button>` : html`<span class="mono muted">${place(problem)}</span>`}
      ${problem.path && html` <span class="mono">${problem.path}</span>:`} ${problem.message}
      ${problem.help && html`<span class="help-text">${problem.help}</span>`}
    </div>
  </li>`)}${more > 0 && html`<li class="muted">and ${more} more</li>`}</ol>`;
}

function place({ place, location }) {
  return place && location.startsWith('body:') ? `line ${place.line}, column ${place.column}` : location;
}
