// What the keyboard does.

import { html } from '../vendor/preact.js';
import { SECTIONS } from '../lib/keys.js';

const KEYS = [
  ['/', 'Find a tenant, a policy or an Envoy'],
  ['j', 'Next row'],
  ['k', 'Row before'],
  ['Enter', 'Open it'],
  ['Esc', 'Close, or leave a field'],
  ['?', 'This'],
];

export function Help() {
  return html`<dialog id="help" aria-labelledby="help-title">
    <form method="dialog">
      <h2 id="help-title">Keyboard</h2>
      <dl class="keys">
        ${SECTIONS.map(([key, , title]) => html`<div><dt><kbd>g</kbd> <kbd>${key}</kbd></dt><dd>${title}</dd></div>`)}
        ${KEYS.map(([key, does]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}
      </dl>
      <button autofocus>Close</button>
    </form>
  </dialog>`;
}
