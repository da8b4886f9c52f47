/** What every server of this benchmark is given. */
export interface ServerSettings {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** The public key of the tokens, as JWK in JSON. */
  readonly publicKey: string;
}

/** What every server tells when it listens. */
export interface ServerReady {
  readonly url: string;
}

/** Bytes that a server's process holds after its garbage was collected. */
export interface ServerMemory {
  readonly resident: number;
  readonly heap: number;
  readonly external: number;
}

export interface Reader {
  readonly userId: string;
  readonly token: string;
}

/** What the process with the readers is asked to do. */
export interface OpenReaders {
  readonly url: string;
  /** One connection for each. */
  readonly readers: readonly Reader[];
}

export interface Received {
  /** Events that arrived, over all connections. */
  readonly events: number;
  /** Times from before the event's commit to its arrival, in milliseconds; a sample of at most 100,000. */
  readonly latencies: readonly number[];
  /** Connections that ended. */
  readonly ended: number;
}

export interface WriteEvents {
  readonly userIds: readonly string[];
  /** Events of each user in a second. */
  readonly rate: number;
  readonly seconds: number;
}

export const document = `subscription { events {
  __typename cursor at
  ... on TaskProgress { taskId progress note }
} }`;

/** The machine's monotonic clock, which all processes share, in milliseconds. */
export function sharedClock(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Parts of the note that carries when an event was about to be committed. */
export const mark = 'sent at ';
