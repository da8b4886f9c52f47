import { readFile } from 'node:fs/promises';

/** A package as the lockfile pins it. */
export interface LockedPackage {
  name: string;
  version: string;
  license: string;
  /** Whether it is part of the image. */
  isShipped: boolean;
}

interface Lockfile {
  packages: Record<
    string,
    {
      version?: string;
      license?: string;
      integrity?: string;
      dev?: boolean;
      devOptional?: boolean;
      optional?: boolean;
      link?: boolean;
    }
  >;
}

/** Licences that ask for no more than to be named. What is shipped may have no others. */
export const shippedLicences: ReadonlySet<string> = new Set([
  ...['0BSD', 'Apache-2.0', 'BlueOak-1.0.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', 'MIT', 'Unlicense'],
]);

/** Licences of packages that are used for development and tests, and are not handed on: these may ask for more. */
export const developmentLicences: ReadonlySet<string> = new Set([
  ...shippedLicences,
  ...['CC0-1.0', 'EPL-2.0', 'MPL-2.0', 'PSF-2.0', 'Python-2.0'],
]);

/**
 * All packages of the lockfile.
 * @throws Error when one is not pinned by a checksum or tells no licence
 */
export async function readLockfile(path = 'package-lock.json'): Promise<LockedPackage[]> {
  const { packages } = JSON.parse(await readFile(path, 'utf8')) as Lockfile;
  return Object.entries(packages)
    .filter(([place]) => place !== '')
    .map(([place, { version, license, integrity, dev, devOptional, optional }]) => {
      const name = place.slice(place.lastIndexOf('node_modules/') + 'node_modules/'.length);
      if (version === undefined || integrity === undefined || license === undefined) {
        throw new Error(`package-lock.json: ${name} lacks a version, a checksum or a licence`);
      }
      return { name, version, license, isShipped: dev !== true && devOptional !== true && optional !== true };
    });
}

/** Whether a licence, as an SPDX expression of names joined by OR and AND, is among the allowed ones. */
export function isAllowed(license: string, allowed: ReadonlySet<string>): boolean {
  const parts = (text: string, word: string): string[] =>
    text.replaceAll(/[()]/g, '').split(new RegExp(` ${word} `, 'i'));
  return parts(license, 'OR').some((choice) => parts(choice, 'AND').every((name) => allowed.has(name.trim())));
}

/** The page of licences of what is shipped. @throws Error when a package has one that is not allowed */
export function licencePage(packages: readonly LockedPackage[]): string {
  const refused = packages.filter(
    ({ license, isShipped }) => !isAllowed(license, isShipped ? shippedLicences : developmentLicences),
  );
  if (refused.length > 0) {
    const lines = refused.map(({ name, version, license }) => `${name}@${version}: ${license}`);
    throw new Error(`Licences that are not allowed (scripts/supply-chain.ts):\n${lines.join('\n')}`);
  }
  const shipped = packages.filter(({ isShipped }) => isShipped);
  const byLicence = [...Map.groupBy(shipped, ({ license }) => license)].toSorted(([one], [other]) =>
    one < other ? -1 : 1,
  );
  return `# Licences

The packages of the image, by licence. Packages that are used for development and tests only are not handed on and not listed; they may
also have ${[...developmentLicences].filter((name) => !shippedLicences.has(name)).join(', ')}. \`npm sbom --omit dev --omit optional --sbom-format cyclonedx\` writes the bill of
materials.

| Licence | Packages |
| --- | --- |
${byLicence
  .map(([license, all]) => {
    const names = [...new Set(all.map(({ name, version }) => `${name} ${version}`))].sort();
    return `| ${license} | ${names.join(', ')} |`;
  })
  .join('\n')}

This page is made from \`package-lock.json\` by \`npm run docs\`.
`;
}
