// Finds a document, a tenant or an Envoy by a part of its name.

import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { path } from '../lib/api.js';
import { usePoll, useSettled } from '../lib/poll.js';
import { href } from '../lib/router.js';
import { Icon } from './icons.js';

const FOUND_MAX = 8;

export function Finder() {
  const dialog = useRef(null);
  const [text, setText] = useState('');
  const [chosen, setChosen] = useState(0);
  // Whoever types fast presses Enter before the answer is there.
  const [isAwaited, setAwaited] = useState(false);
  const search = useSettled(text.trim(), 150);
  const once = { seconds: 0 };
  const documents = usePoll(search && path('/v1/policies', { search, limit: FOUND_MAX }), once);
  // Whoever is on the default plan has no document.
  const tenants = usePoll(search && path('/v1/top', { search, limit: FOUND_MAX }), once);
  const nodes = usePoll(search && path('/v1/nodes', { search, limit: FOUND_MAX }), once);
  const found = search && text ? distinct([...foundDocuments(documents.data), ...foundTenants(tenants.data), ...foundNodes(nodes.data)]) : [];
  const isCut = Boolean(documents.data?.next || tenants.data?.tenants_more || nodes.data?.next);
  const isSettled = search === text.trim() && [documents, tenants, nodes].every((list) => list.isCurrent);
  useEffect(() => setChosen(0), [search]);
  useEffect(() => {
    if (isAwaited && isSettled) open(found[chosen]);
  }, [isAwaited, isSettled]);

  const open = (entry) => {
    setAwaited(false);
    if (!entry) return;
    location.hash = entry.link;
    dialog.current.close();
  };
  const typed = (event) => {
    setText(event.target.value);
    setAwaited(false);
  };
  const pressed = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) setChosen((chosen + step + found.length) % Math.max(1, found.length));
    else if (event.key === 'Enter') setAwaited(text.trim() !== '');
    else return;
    event.preventDefault();
  };
  return html`<dialog id="finder" class="finder" ref=${dialog} aria-label="Find" onClose=${() => setText('')}>
    <label class="search"><${Icon} name="search" />
      <input type="search" autofocus placeholder="Find a tenant, a policy or an Envoy" aria-label="Find" value=${text}
        role="combobox" aria-expanded=${found.length > 0} aria-controls="found" aria-activedescendant=${found.length ? `found-${chosen}` : undefined}
        onInput=${typed} onKeyDown=${pressed} autocomplete="off" spellcheck=${false} />
    </label>
    <ul id="found" role="listbox" aria-label="Found">
      ${found.map((entry, index) => html`<li id="found-${index}" role="option" aria-selected=${index === chosen}>
        <a href=${entry.link} tabindex="-1" onClick=${(event) => { event.preventDefault(); open(entry); }}><span class="muted">${entry.kind}</span> ${entry.name}</a>
      </li>`)}
    </ul>
    ${search && isSettled && isCut && html`<p class="absent">There are more: type more of the name.</p>`}
    ${search && isSettled && found.length === 0 && html`<p class="absent">Nothing has “${search}” in its name.</p>`}
  </dialog>`;
}

function foundDocuments(told) {
  const named = (told?.documents ?? []).filter((row) => row.kind && row.name);
  const link = ({ kind, name }) => (kind === 'Tenant' ? href(['tenants', name]) : href(['policies', kind, name]));
  return named.slice(0, FOUND_MAX).map((row) => ({ kind: row.kind, name: row.name, link: link(row) }));
}

function foundTenants(told) {
  return (told?.tenants ?? []).map(({ tenant }) => ({ kind: 'Tenant', name: tenant, link: href(['tenants', tenant]) }));
}

function distinct(entries) {
  return [...new Map(entries.map((entry) => [entry.link, entry])).values()];
}

function foundNodes(told) {
  return (told?.nodes ?? []).slice(0, FOUND_MAX).map((node) => ({ kind: 'Envoy', name: node.id, link: href(['envoys', node.id]) }));
}
