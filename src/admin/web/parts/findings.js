// What an operator should know of before anything else, each with the way to it.

import { html } from '../vendor/preact.js';
import { ago, ahead, count, duration, plural } from '../lib/format.js';
import { href } from '../lib/router.js';
import { titleOf } from './checks.js';
import { Icon } from './icons.js';

// Tone, words and link of each finding; nothing where all is well.
export function findingsOf(status) {
  const found = [];
  const { source, nodes, refused, held, counters } = status;
  const add = (tone, words, link) => found.push({ tone, words, link });
  if (source?.trouble) add('bad', `The source of policies: ${source.trouble}`);
  for (const check of status.checks) if (check.reason) add('bad', `${titleOf(check)}: ${check.reason}`);
  if (source?.serves_last_good_of_earlier_run) add('warn', 'The last good set of an earlier run is served: the source was not heard yet');
  if (source?.unreadable_change) add('bad', `A large change cannot be read: ${source.unreadable_change}`);
  if (refused.length) add('bad', `${plural(refused.length + status.refused_more, 'document is', 'documents are')} refused`, href(['policies'], { refused: 'true' }));
  for (const hold of held) {
    const node = hold.reasons[0]?.node;
    add('warn', `The rollout to gateway ${hold.gateway} is held${node ? `: ${node} refused it` : ''}`, href(['envoys'], { gateway: hold.gateway }));
  }
  if (status.held_more) add('warn', `The rollout to ${plural(status.held_more, 'more gateway')} is held`, href(['envoys'], { state: 'HELD' }));
  if (nodes.refusing) add('bad', `${plural(nodes.refusing, 'Envoy refuses', 'Envoys refuse')} what it was sent`, href(['envoys'], { state: 'REFUSED' }));
  if (nodes.late) add('warn', `${plural(nodes.late, 'Envoy is', 'Envoys are')} late to answer`, href(['envoys'], { state: 'STALE' }));
  if (nodes.selected_by_no_gateway) add('warn', `${plural(nodes.selected_by_no_gateway, 'Envoy is', 'Envoys are')} selected by no gateway`, href(['envoys']));
  if (nodes.too_old?.length) add('warn', `${plural(nodes.too_old.length + nodes.too_old_more, 'Envoy is', 'Envoys are')} too old for something in the policies`, href(['envoys', nodes.too_old[0].id]));
  for (const { flag, not_after, validity } of status.certificates ?? []) {
    if (validity === 'expired') add('bad', `The certificate of ${flag} ended ${ago(not_after)}`);
    if (validity === 'expiring') add('warn', `The certificate of ${flag} ends ${ahead(not_after)}`);
  }
  if (status.gateways_without_envoys?.length) add('bad', `No Envoy can have ${status.gateways_without_envoys.join(', ')}: only some certificates may, and this server asks for none`);
  if (status.denied?.length) add('warn', `${plural(status.denied.length, 'client was', 'clients were')} denied a gateway because of the certificate`);
  const store = counters?.redis;
  if (store?.trouble) add('warn', `The store of counters: ${store.trouble}`);
  if (counters?.keys !== undefined && counters.keys >= counters.keys_max) add('bad', `No room for more than ${count(counters.keys_max)} counters`);
  return found;
}

export function Findings({ found, status }) {
  if (!found.length) return html`<p class="well"><${Icon} name="check" />${wellWords(status)}</p>`;
  return html`<ul class="findings">${found.map(({ tone, words, link }) => html`<li class=${tone}>
    <${Icon} name=${tone === 'bad' ? 'cross' : 'warning'} /><span>${words}</span>${link && html`<a href=${link}>Look<span class="unseen"> at it: ${words}</span></a>`}
  </li>`)}</ul>`;
}

function wellWords({ nodes, source }) {
  const envoys = nodes.connected === 0 ? 'No Envoy is connected yet.' : nodes.live === nodes.connected ? `${plural(nodes.connected, 'Envoy has', 'Envoys have')} what is served.` : `${count(nodes.live)} of ${plural(nodes.connected, 'Envoy')} have what is served.`;
  const heard = source?.lag_seconds === null || source?.lag_seconds === undefined ? '' : ` The source was heard ${duration(source.lag_seconds)} ago.`;
  return `Nothing is refused. ${envoys}${heard}`;
}
