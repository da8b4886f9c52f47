/** Values of a scrape in Prometheus' text format, by series as it is written there: `name{label="value"}`. */
export type Scrape = ReadonlyMap<string, number>;

/** Reads a monitor's metrics. */
export async function scrape(monitorUrl: string | null): Promise<Scrape> {
  const response = await fetch(`${monitorUrl}/metrics`, { signal: AbortSignal.timeout(10_000) });
  const lines = (await response.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}
