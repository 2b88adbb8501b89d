// Copy the configuration to the clipboard.
{
  const copy = one(".copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(one(".config code").textContent);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Press Ctrl+C";
        getSelection().selectAllChildren(one(".config code"));
      }
    });
  }
}
