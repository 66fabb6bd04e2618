// What is asked again and again while somebody looks, and at once when an event says that it changed.

import { useEffect, useRef, useState } from '../vendor/preact.js';
import { get } from './api.js';
import { onEvent } from './live.js';
import { isKnown } from './session.js';

// Events come in crowds.
const CROWD_MS = 250;
const FIRST = { data: undefined, problem: null, path: undefined };

// Without a path nothing is asked. What was told stays while the next answer is on its way, or does not come; `isCurrent` says
// whether it is of this path.
export function usePoll(path, { seconds = 5, events = [] } = {}) {
  const [state, setState] = useState(FIRST);
  const reload = useRef(() => {});
  const names = events.join(' ');
  useEffect(() => {
    if (!path) {
      setState(FIRST);
      return undefined;
    }
    const asking = new AbortController();
    let timer = 0;
    let soon = 0;
    const ask = async () => {
      clearTimeout(timer);
      if (!document.hidden && isKnown()) {
        try {
          const data = await get(path, { signal: asking.signal });
          setState({ data, problem: null, path });
        } catch (problem) {
          if (problem.name === 'AbortError') return;
          setState((old) => ({ data: old.path === path ? old.data : undefined, problem, path }));
        }
      }
      if (seconds > 0 && !asking.signal.aborted) timer = setTimeout(ask, seconds * 1000);
    };
    reload.current = ask;
    ask();
    const seen = () => document.hidden || ask();
    document.addEventListener('visibilitychange', seen);
    addEventListener('known', ask);
    const askSoon = () => {
      clearTimeout(soon);
      soon = setTimeout(ask, CROWD_MS);
    };
    const ignore = onEvent(names ? names.split(' ') : [], askSoon);
    return () => {
      asking.abort();
      clearTimeout(timer);
      clearTimeout(soon);
      document.removeEventListener('visibilitychange', seen);
      removeEventListener('known', ask);
      ignore();
    };
  }, [path, seconds, names]);
  return { ...state, isCurrent: state.path === path, reload: () => reload.current() };
}

// A value that settles once nothing changed for a while: what is typed.
export function useSettled(value, ms) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}
