// The keyboard: one key, or `g` and another, wherever nobody is typing.

import { useEffect } from '../vendor/preact.js';
import { go } from './router.js';

export const SECTIONS = [
  ['o', 'overview', 'Overview'],
  ['e', 'envoys', 'Envoys'],
  ['l', 'limits', 'Limits'],
  ['t', 'tenants', 'Tenants'],
  ['p', 'policies', 'Policies'],
  ['w', 'explain', 'Why?'],
  ['v', 'events', 'Events'],
  ['a', 'audit', 'Audit'],
];

const WAIT_MS = 1500;

function isTyping(target) {
  return target instanceof Element && target.closest('input, textarea, select') !== null;
}

export function openDialog(id) {
  const dialog = document.getElementById(id);
  if (dialog && !dialog.open) dialog.showModal();
}

// Moves along the links of the rows, as arrows do in a list.
function moveAlongRows(step) {
  const links = [...document.querySelectorAll('main tbody tr')].map((row) => row.querySelector('a')).filter(Boolean);
  const here = links.indexOf(document.activeElement?.closest('tr')?.querySelector('a'));
  links[Math.max(0, Math.min(links.length - 1, here + step))]?.focus();
}

export function useKeys() {
  useEffect(() => {
    let leader = 0;
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.key === 'Escape' && isTyping(event.target)) return event.target.blur();
      if (isTyping(event.target) || document.querySelector('dialog[open]')) return;
      const section = SECTIONS.find(([key]) => key === event.key);
      if (section && Date.now() - leader < WAIT_MS) {
        leader = 0;
        event.preventDefault();
        return go([section[1]]);
      }
      leader = event.key === 'g' ? Date.now() : 0;
      const action = { '/': () => openDialog('finder'), '?': () => openDialog('help'), j: () => moveAlongRows(1), k: () => moveAlongRows(-1) }[event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    };
    document.addEventListener('keydown', pressed);
    return () => document.removeEventListener('keydown', pressed);
  }, []);
}
