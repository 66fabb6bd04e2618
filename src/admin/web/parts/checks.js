// The rows of /readyz, in words.

import { count, duration, plural } from '../lib/format.js';

const CHECKS = { policies: 'Policies', source: 'Source of policies', documents: 'Documents in the source', refused_documents: 'Refused documents', refused_files: 'Refused files', counter_keys: 'Counters in memory', counter_store: 'Store of counters', certificates: 'Certificates', identities: 'Gateways for nobody', connections: 'Ports without places', decision_calls: 'Requests that wait', xds_unread: 'Not read by Envoys', audit_log: 'Audit log', spans: 'Spans that wait', denials_log: 'Log of denials', last_good_set: 'Last good set on disk', leaving: 'Leaving' };
const SECONDS_CHECKS = ['source'];

export function titleOf({ name }) {
  return CHECKS[name] ?? name;
}

export function measured({ name, value, threshold }) {
  if (SECONDS_CHECKS.includes(name)) return value === null ? 'never heard' : `heard ${duration(value)} ago`;
  if (name === 'documents') return value === null ? 'not read yet' : count(value);
  if (name === 'policies') return value === null ? 'none yet' : `generation ${value}`;
  if (name === 'counter_keys') return `${count(value)} of ${count(threshold)}`;
  if (name === 'audit_log') return value ? `${count(value)} waiting` : '';
  if (name === 'counter_store') return plural(value, 'connection');
  if (name === 'certificates') return value === null ? 'none' : `${count(value)} days left`;
  if (name === 'xds_unread') return value ? `${count(value)} bytes` : '';
  if (['decision_calls', 'spans', 'denials_log'].includes(name)) return value ? `${count(value)} waiting` : '';
  if (name === 'last_good_set') return value ? `${duration(value)} behind` : '';
  if (name === 'leaving') return value ? 'it is about to end' : '';
  return count(value);
}
