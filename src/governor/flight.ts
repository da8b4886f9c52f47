/** Joins equal work that is under way. */
export interface Flights<Result> {
  /**
   * Waits for the work of that key, which is begun when there is none. A caller whose signal fires leaves at once; the
   * work ends when the last one left.
   */
  join(key: string, signal: AbortSignal, begin: (signal: AbortSignal) => Promise<Result>): Promise<Result>;
}

interface Flight<Result> {
  result: Promise<Result>;
  aboard: number;
  abandon: AbortController;
}

export function createFlights<Result>(): Flights<Result> {
  const flights = new Map<string, Flight<Result>>();
  const start = (key: string, begin: (signal: AbortSignal) => Promise<Result>): Flight<Result> => {
    const abandon = new AbortController();
    const flight: Flight<Result> = { result: begin(abandon.signal), aboard: 0, abandon };
    flights.set(key, flight);
    const land = (): void => {
      if (flights.get(key) === flight) {
        flights.delete(key);
      }
    };
    flight.result.then(land, land);
    return flight;
  };
  return {
    join: (key, signal, begin) =>
      new Promise<Result>((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason);
          return;
        }
        const flight = flights.get(key) ?? start(key, begin);
        flight.aboard += 1;
        let aboard = true;
        const leave = (): void => {
          signal.removeEventListener('abort', onAbort);
          flight.aboard -= aboard ? 1 : 0;
          aboard = false;
        };
        const onAbort = (): void => {
          leave();
          if (flight.aboard === 0) {
            // Who comes now begins anew.
            flights.delete(key);
            flight.abandon.abort(signal.reason);
          }
          reject(signal.reason);
        };
        signal.addEventListener('abort', onAbort, { once: true });
        flight.result.then(
          (result) => {
            leave();
            resolve(result);
          },
          (error: unknown) => {
            leave();
            reject(error);
          },
        );
      }),
  };
}
