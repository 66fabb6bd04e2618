// Light or dark: as the system has it, until somebody says otherwise.

import { useState } from '../vendor/preact.js';

const KEY = 'tierflow-theme';
export const THEMES = ['system', 'light', 'dark'];

function chosen() {
  const theme = localStorage.getItem(KEY);
  return THEMES.includes(theme) ? theme : 'system';
}

export function applyTheme() {
  document.documentElement.dataset.theme = chosen();
}

export function useTheme() {
  const [theme, setTheme] = useState(chosen);
  const next = () => {
    const other = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(KEY, other);
    applyTheme();
    setTheme(other);
  };
  return [theme, next];
}
