// Colours: follow the system until the button was used; remember the choice where that is allowed.
{
  const memory = {
    read() { try { return localStorage.getItem("clipkit-theme"); } catch { return null; } },
    write(theme) { try { localStorage.setItem("clipkit-theme", theme); } catch { /* private window */ } },
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = one(".theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => button.setAttribute("aria-pressed", String(isDark()));
  if (memory.read()) root.dataset.theme = memory.read();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.write(root.dataset.theme);
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();
}
