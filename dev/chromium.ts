import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram, installPackage, isExecutable } from './debian-package.ts';

const MISSING = 'Chromium, which the tests in a browser need, was not found';

/**
 * The program to run Chromium: `CHROMIUM_PATH`, or one of the PATH. Where there is none, Debian as root installs it,
 * once for a data folder.
 *
 * @throws Error with the reason when there is none.
 */
export async function findOrInstallChromium(dataFolder: string, log: (line: string) => void): Promise<string> {
  const given = process.env['CHROMIUM_PATH'];
  if (given !== undefined && given !== '') {
    if (await isExecutable(given)) return given;
    throw new Error(`CHROMIUM_PATH is ${given}, which is no program`);
  }
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  const found = await findProgram(names);
  if (found !== null) return found;
  await mkdir(dataFolder, { recursive: true });
  await installPackage({
    name: 'chromium',
    missing: MISSING,
    failureFile: join(dataFolder, 'chromium-installation-failed'),
    timeoutMs: 180_000,
    log,
  });
  const installed = await findProgram(names);
  if (installed === null) throw new Error(`${MISSING}, although its package was installed`);
  return installed;
}
