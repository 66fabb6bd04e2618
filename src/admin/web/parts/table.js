// Tables of lists that may be long: a page of one is all that is fetched and drawn.

import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { refine } from '../lib/router.js';
import { useSettled } from '../lib/poll.js';
import { Absent } from './basics.js';
import { Icon } from './icons.js';

// columns: { name, of: (row) => content, number, grow, wrap, less }. One with `less` is left out on small screens.
export function Table({ columns, rows, keyOf, label }) {
  const classOf = (column) => [column.number && 'number', column.grow && 'grow', column.wrap && 'wrap', column.less && 'less'].filter(Boolean).join(' ');
  return html`<div class="scroll"><table aria-label=${label}>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${classOf(column)}>${column.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${keyOf(row)}>
      ${columns.map((column) => html`<td class=${classOf(column)} data-name=${column.name}>${column.of(row)}</td>`)}
    </tr>`)}</tbody>
  </table></div>`;
}

// A page of a list, with the way to the next.
export function Listing({ asked, rows, empty, after, ...table }) {
  if (!asked.data || rows.length === 0) return html`<${Absent} of=${asked} empty=${empty} />`;
  return html`<${Table} ...${table} rows=${rows} /><${Pager} after=${after} next=${asked.data.next} />`;
}

function Pager({ after, next }) {
  if (!after && !next) return null;
  return html`<nav class="pager" aria-label="Pages">
    <button type="button" disabled=${!after} onClick=${() => refine({ after: '' })}>First page</button>
    <button type="button" disabled=${!next} onClick=${() => refine({ after: next })}>Next page</button>
  </nav>`;
}

// A filter by name, which is in the address and waits for whoever types.
export function Search({ value, label }) {
  const [text, setText] = useState(value);
  const settled = useSettled(text, 200);
  const field = useRef(null);
  useEffect(() => {
    if (settled !== value) refine({ search: settled });
  }, [settled]);
  // The address may change without this field, and not against whoever types in it.
  useEffect(() => {
    if (document.activeElement !== field.current) setText(value);
  }, [value]);
  return html`<label class="search"><${Icon} name="search" />
    <input ref=${field} type="search" placeholder=${label} aria-label=${label} value=${text} onInput=${(event) => setText(event.target.value)} autocomplete="off" spellcheck=${false} />
  </label>`;
}
