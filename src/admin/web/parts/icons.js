// Small drawings of 16 by 16. They stand beside words, so readers of screens pass them over.

import { html } from '../vendor/preact.js';

const PATHS = {
  overview: 'M2.5 9.5a5.5 5.5 0 0 1 11 0M8 9.5l2.5-3M2.5 12.5h11',
  envoys: 'M8 2.5l5 2.75v5.5L8 13.5l-5-2.75v-5.5zM3 5.25l5 2.75 5-2.75M8 8v5.5',
  limits: 'M2.5 4h11M2.5 8h7.5M2.5 12h4M12.5 6.5v7M10.5 11.5l2 2 2-2',
  tenants: 'M8 8a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM3 13.5a5 5 0 0 1 10 0',
  policies: 'M4 2.5h5.5L12.5 5.5v8h-8.5zM9.5 2.5v3h3M6.5 8.5h3.5M6.5 11h3.5',
  events: 'M2 8.5h3l1.5-5 3 9 1.5-4h3',
  audit: 'M8 13.5a5.5 5.5 0 1 0-5.5-5.5M2.5 3.5V8H7M8 5v3.25l2.25 1.5',
  search: 'M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.5 10.5l3 3',
  check: 'M3.5 8.5l3 3 6-7',
  cross: 'M4 4l8 8M12 4l-8 8',
  warning: 'M8 2.5l6 11H2zM8 6.5v3.25M8 11.5v.25',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  clock: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 5v3.25l2 1.25',
  dash: 'M3.5 8h9',
  dot: 'M8 10a2 2 0 1 0 0-4 2 2 0 0 0 0 4z',
  sun: 'M8 10.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM8 1.5v1.5M8 13v1.5M1.5 8H3M13 8h1.5M3.4 3.4l1.1 1.1M11.5 11.5l1.1 1.1M3.4 12.6l1.1-1.1M11.5 4.5l1.1-1.1',
  moon: 'M13 9.5A5.5 5.5 0 1 1 6.5 3a4.5 4.5 0 0 0 6.5 6.5z',
  system: 'M2.5 3.5h11v7.5h-11zM6 13.5h4M8 11v2.5',
  help: 'M6 6a2 2 0 1 1 2.75 1.85c-.5.22-.75.6-.75 1.15v.5M8 11.5v.25',
  edit: 'M3 13l.75-3L10.5 3.25l2.25 2.25L6 12.25z',
  plus: 'M8 3.5v9M3.5 8h9',
  lock: 'M4 7.5h8v5.5H4zM5.5 7.5V5.5a2.5 2.5 0 0 1 5 0v2',
  arrow: 'M3.5 8h9M9 4.5L12.5 8 9 11.5',
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
