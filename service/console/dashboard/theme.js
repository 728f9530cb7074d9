// The chosen colours, set before anything is painted. Not a module: modules run too late for that.
"use strict";
try {
  const chosen = localStorage.getItem("ccproxy-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // No storage: the colours of the system.
}
