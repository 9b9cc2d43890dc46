// Runs before the page is drawn, so that a chosen scheme does not flash in the other one.
try {
  const chosen = localStorage.getItem('bifocal-theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
} catch { /* no storage: the system's scheme */ }
