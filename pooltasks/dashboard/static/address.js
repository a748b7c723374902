// The page's choices stand in its address, so that a link shows the same.

export function read(name, allowed, otherwise) {
  const value = new URLSearchParams(location.search).get(name);
  return value !== null && (allowed === null || allowed.includes(value)) ? value : otherwise;
}

// Write a value; the usual one is left out.
export function write(name, value, usual) {
  const query = new URLSearchParams(location.search);
  if (value === usual) query.delete(name);
  else query.set(name, value);
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}
