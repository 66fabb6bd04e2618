// The page: a frame that stays, and the view that the address names.

import { html, render, useEffect, useErrorBoundary } from './vendor/preact.js';
import { start as startLive } from './lib/live.js';
import { useRoute } from './lib/router.js';
import { useKeys } from './lib/keys.js';
import { start as startSession, useSession } from './lib/session.js';
import { applyTheme } from './lib/theme.js';
import { SignIn } from './parts/access.js';
import { Frame } from './parts/frame.js';
import { Heading, Trouble } from './parts/basics.js';
import { Overview } from './views/overview.js';
import { Envoy, Envoys } from './views/envoys.js';
import { Api } from './views/api.js';
import { Limits } from './views/limits.js';
import { Tenant } from './views/tenant.js';
import { Tenants } from './views/tenants.js';
import { Policies } from './views/policies.js';
import { EditPolicy, NewPolicy, Policy } from './views/policy.js';
import { Events } from './views/events.js';
import { Audit } from './views/audit.js';
import { Explain } from './views/explain.js';

// The view of an address, with what it is given of it.
function viewOf({ parts, query }) {
  const [section = 'overview', first, second, third] = parts;
  switch (section) {
    case 'overview':
      return html`<${Overview} />`;
    case 'envoys':
      return first ? html`<${Envoy} id=${first} key=${first} />` : html`<${Envoys} query=${query} />`;
    case 'limits':
      return second ? html`<${Api} gateway=${first} api=${second} />` : html`<${Limits} query=${query} />`;
    case 'tenants':
      return first ? html`<${Tenant} name=${first} gateway=${query.get('gateway')} key=${first} />` : html`<${Tenants} query=${query} />`;
    case 'policies':
      if (first === 'new') return html`<${NewPolicy} query=${query} />`;
      if (third === 'edit') return html`<${EditPolicy} kind=${first} name=${second} key=${second} />`;
      return second ? html`<${Policy} kind=${first} name=${second} key=${second} />` : html`<${Policies} query=${query} />`;
    case 'explain':
      return html`<${Explain} query=${query} />`;
    case 'events':
      return html`<${Events} query=${query} />`;
    case 'audit':
      return html`<${Audit} query=${query} />`;
    default:
      return html`<${Heading} title="Nothing is here">The address names no view.<//>`;
  }
}

// A view that fails leaves the frame, and the other views, as they are.
function View({ route }) {
  const [error, forget] = useErrorBoundary((error) => console.error(error));
  const place = route.parts.join('/');
  useEffect(() => {
    if (error) forget();
  }, [place]);
  return error ? html`<${Trouble} problem=${error} />` : viewOf(route);
}

// Whoever is not known any more keeps what is typed, out of sight, until somebody signs in again.
function App() {
  const { access, problem } = useSession();
  return html`
    ${problem && html`<${SignIn} problem=${problem} />`}
    ${access && html`<div hidden=${problem !== null}><${Views} /></div>`}`;
}

function Views() {
  const route = useRoute();
  const place = route.parts.join('/');
  useKeys();
  useEffect(() => {
    // Readers of screens are told where they are, and the keyboard goes on from there.
    const heading = document.querySelector('main h1');
    heading?.focus({ preventScroll: true });
    scrollTo(0, 0);
    document.title = heading ? `${heading.textContent} · Tierflow` : 'Tierflow';
  }, [place]);
  return html`<${Frame} section=${route.parts[0] ?? 'overview'}><${View} route=${route} /><//>`;
}

applyTheme();
startSession();
startLive();
render(html`<${App} />`, document.getElementById('app'));
