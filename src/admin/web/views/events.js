// What happened since the page was opened, and what the server remembers of before.

import { html } from '../vendor/preact.js';
import { useLive } from '../lib/live.js';
import { refine } from '../lib/router.js';
import { Choice, Heading, Panel } from '../parts/basics.js';
import { EventList } from '../parts/event.js';

const KINDS = [['', 'all'], ['generation', 'generations'], ['refused', 'refusals'], ['node', 'Envoys'], ['change', 'changes']];

export function Events({ query }) {
  const { events, state } = useLive();
  const kind = query.get('kind') ?? '';
  const shown = events.filter(({ name }) => !kind || name === kind || name === `${kind}s`);
  return html`
    <${Heading} title="Events">As they happen, newest first.<//>
    <div class="filters"><${Choice} label="Kind" value=${kind} options=${KINDS} onChoose=${(chosen) => refine({ kind: chosen })} /></div>
    <${Panel} flush><${EventList} events=${shown} empty=${state === 'polling' ? 'There is no stream of events now; the page tries again by itself.' : 'Nothing has happened yet. Leave the page open.'} /><//>`;
}
