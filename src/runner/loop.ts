/**
 * Does work again and again, `interval` milliseconds after the last time it was done; it never runs twice at once. A
 * fault is handed on and the loop continues.
 * @returns a function that ends the loop and waits for work under way
 */
export function startLoop(
  interval: number,
  work: () => Promise<unknown>,
  onError: (error: unknown) => void,
): () => Promise<void> {
  let stopped = false;
  let running: Promise<unknown> = Promise.resolve();
  let timer: NodeJS.Timeout;
  const schedule = (): void => {
    timer = setTimeout(() => {
      running = work()
        .catch(onError)
        .finally(() => {
          if (!stopped) {
            schedule();
          }
        });
    }, interval);
  };
  schedule();
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await running;
  };
}
