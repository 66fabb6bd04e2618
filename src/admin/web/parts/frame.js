// What stays on every view: the way to the others, and how the page is connected.

import { html, useEffect } from '../vendor/preact.js';
import { count } from '../lib/format.js';
import { SECTIONS, openDialog } from '../lib/keys.js';
import { useLive } from '../lib/live.js';
import { usePoll } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { useTheme } from '../lib/theme.js';
import { WhoAmI } from './access.js';
import { Notice } from './basics.js';
import { Finder } from './finder.js';
import { Help } from './help.js';
import { Icon } from './icons.js';

const ICONS = { explain: 'help' };
const STATES = {
  live: ['good', 'Live', 'What happens is told as it happens'],
  connecting: ['warn', 'Connecting', 'The server does not answer yet'],
  polling: ['warn', 'Every 2 s', 'There is no stream of events: the server is asked again and again'],
  paused: ['quiet', 'Paused', 'Nobody looks at the page'],
};

export function Frame({ section, children }) {
  const status = usePoll('/v1/status', { seconds: 10, events: ['generation', 'refused', 'node'] });
  useEffect(() => {
    // On narrow screens the views stand in a line that is longer than the screen.
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }, [section]);
  return html`<div class="frame">
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="side">
      <a class="brand" href=${href(['overview'])}><img src="assets/icon.svg" alt="" width="22" height="22" />Tierflow</a>
      <button type="button" class="find" aria-label="Find" onClick=${() => openDialog('finder')}>
        <${Icon} name="search" /><span>Find</span><kbd>/</kbd>
      </button>
      <nav aria-label="Views"><ul>${SECTIONS.map(([key, name, title]) => html`<li>
        <a href=${href([name])} aria-current=${name === section ? 'page' : undefined} aria-keyshortcuts=${`g ${key}`}>
          <${Icon} name=${ICONS[name] ?? name} /><span>${title}</span><${Count} of=${name} status=${status.data} />
        </a></li>`)}</ul></nav>
      <${WhoAmI} />
      <${Connection} status=${status} />
    </header>
    <main id="main">
      ${status.problem?.status === 0 && html`<${Notice} tone="warn" icon="warning">Tierflow does not answer. What is shown is what it said last.<//>`}
      ${children}
    </main>
    <${Finder} />
    <${Help} />
  </div>`;
}

// The address names a view, so that a link within it cannot go by the fragment.
function skip(event) {
  event.preventDefault();
  document.querySelector('main h1')?.focus();
}

// What wants to be looked at, in numbers.
function Count({ of, status }) {
  const nodes = status?.nodes;
  const troubled = {
    envoys: nodes && nodes.refusing + nodes.held,
    policies: status && status.refused.length + status.refused_more,
  }[of];
  if (!troubled) return null;
  return html`<span class="badge bad count" title="refused"><${Icon} name="cross" />${count(troubled)}<span class="unseen"> refused</span></span>`;
}

function Connection({ status }) {
  const live = useLive();
  const [theme, next] = useTheme();
  const [tone, word, why] = STATES[status.problem?.status === 0 ? 'connecting' : live.state];
  const icon = { system: 'system', light: 'sun', dark: 'moon' }[theme];
  return html`<div class="connection">
    <p role="status" title=${why}><span class="lamp ${tone}"></span>${word}${status.data?.generation && html`<span class="muted">Generation ${status.data.generation}</span>`}</p>
    <div class="tools">
      <button type="button" class="bare" onClick=${next} title="Colours: ${theme}" aria-label="Colours: ${theme}"><${Icon} name=${icon} /></button>
      <button type="button" class="bare" onClick=${() => openDialog('help')} title="Keyboard (?)" aria-label="Keyboard"><${Icon} name="help" /></button>
    </div>
  </div>`;
}
