// Requests to the service, and a guard against an older answer replacing a newer one.

/** The JSON that the service answers; throws an Error with the service's own sentence if it refuses. */
export async function ask(path, { body, signal } = {}) {
  const headers = { "Content-Type": "application/json" };
  const posted = body && { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, { ...posted, signal }).catch(() => {
    throw new Error("The service does not answer: is it still running?");
  });
  const answer = await response.json().catch(() => undefined);
  if (response.ok && answer) return answer;
  const unreadable = `The service answered with status ${response.status} and nothing that this page can read.`;
  throw new Error(answer?.detail ?? unreadable);
}

/**
 * A function that waits `milliseconds` for a newer call, then does `work(signal, ...)` and passes its result to `show`
 * or its error to `fail`. A newer call cancels the older one: neither is called for it.
 */
export function latest(milliseconds, work, show, fail) {
  let controller = new AbortController();
  return (...given) => {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    return new Promise((resolve) => setTimeout(resolve, milliseconds)).then(async () => {
      if (signal.aborted) return;
      try {
        const result = await work(signal, ...given);
        if (!signal.aborted) show(result, ...given);
      } catch (error) {
        if (!signal.aborted) fail(error, ...given);
      }
    });
  };
}
