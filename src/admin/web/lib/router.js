// Every view has an address that can be shared, in the fragment: #/tenants/acme?gateway=shop

import { useEffect, useState } from '../vendor/preact.js';

export function parse(hash) {
  const text = hash.replace(/^#\/?/, '');
  const mark = text.indexOf('?');
  const path = mark < 0 ? text : text.slice(0, mark);
  const query = new URLSearchParams(mark < 0 ? '' : text.slice(mark + 1));
  return { parts: path.split('/').filter(Boolean).map(decode), query };
}

// Somebody may have typed it.
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

// href(['tenants', 'acme'], { gateway: 'shop' })
export function href(parts, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const search = new URLSearchParams(given).toString();
  return '#/' + parts.map(encodeURIComponent).join('/') + (search ? '?' + search : '');
}

export function go(parts, query) {
  location.hash = href(parts, query);
}

// A filter that changes is the same view: it makes no step for the button "back".
export function refine(changes) {
  const { parts, query } = parse(location.hash);
  const merged = { ...Object.fromEntries(query), after: '', ...changes };
  history.replaceState(null, '', href(parts, merged));
  dispatchEvent(new HashChangeEvent('hashchange'));
}

export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => setRoute(parse(location.hash));
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  return route;
}
