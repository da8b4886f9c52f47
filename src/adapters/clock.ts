/** The one source of time, so that tests can move it. */
export interface Clock {
  now(): Date;
}

/** The machine's clock. */
export function systemClock(): Clock {
  return { now: () => new Date() };
}
