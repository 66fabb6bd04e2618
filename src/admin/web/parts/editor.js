// A field for the text of a policy: plain, so that every keyboard, reader and spelling of it works, over a drawing of the
// same text that has colours and underlines.

import { html, useEffect, useRef } from '../vendor/preact.js';
import { Lines } from './code.js';

export function Editor({ text, problems, onInput, place }) {
  const field = useRef(null);
  const drawing = useRef(null);
  useEffect(() => {
    if (!place) return;
    const start = offsetOf(text, place);
    field.current.focus();
    field.current.setSelectionRange(start, start + place.width);
  }, [place]);
  const scrolled = () => {
    drawing.current.scrollLeft = field.current.scrollLeft;
  };
  return html`<div class="editor code">
    <pre ref=${drawing} aria-hidden="true"><code><${Lines} text=${`${text}\n`} problems=${problems} /></code></pre>
    <textarea ref=${field} aria-label="Text of the policy" wrap="off" spellcheck=${false} autocapitalize="off" autocomplete="off"
      aria-invalid=${problems.length > 0} value=${text} onInput=${(event) => onInput(event.target.value)} onScroll=${scrolled}></textarea>
  </div>`;
}

function offsetOf(text, { line, column }) {
  const before = text.split('\n').slice(0, line - 1).reduce((all, one) => all + one.length + 1, 0);
  const characters = Array.from(text.split('\n')[line - 1] ?? '');
  return before + characters.slice(0, column - 1).join('').length;
}
