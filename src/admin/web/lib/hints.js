// What of a policy's text helps to fill in a form. The server alone knows what a policy means; a hint that is missing costs a
// person some typing.

// The plan of a tenant, and so on: the first value of the field.
export function fieldOf(text, name) {
  const found = new RegExp(`(?:^|[{,\\s])${name}:[ \\t]*(?:"([^"]*)"|'([^']*)'|([^\\s,{}#]+))`, 'm').exec(text ?? '');
  return found ? (found[1] ?? found[2] ?? found[3]) : undefined;
}

// The header that a gateway finds the tenant in.
export function tenantHeaderOf(text) {
  return /tenant:[\s\S]*?from:\s*\{?\s*header:\s*["']?([^\s,}"']+)/.exec(text ?? '')?.[1];
}

// A request that an API is likely to take.
export function sampleOf(text) {
  const method = /methods:\s*\[\s*["']?([A-Z]+)/.exec(text ?? '')?.[1] ?? 'GET';
  const [exact, template, prefix] = ['path', 'path_template', 'path_prefix'].map((name) => fieldOf(text, name));
  const quoted = /path_template:\s*["']([^"']+)["']/.exec(text ?? '')?.[1];
  if (exact) return { method, path: exact };
  if (quoted ?? template) return { method, path: (quoted ?? template).replace(/\{[^}]*\}/g, '7').replaceAll('*', '7') };
  return { method, path: prefix ?? '/' };
}
