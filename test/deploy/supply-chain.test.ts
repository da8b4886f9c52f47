import { describe, expect, it } from 'vitest';
import { isAllowed, licencePage, readLockfile, shippedLicences } from '../../scripts/supply-chain.ts';

describe('the packages', () => {
  it('are pinned by a checksum each, and what is shipped has an allowed licence', async () => {
    const packages = await readLockfile();
    expect(packages.length).toBeGreaterThan(500);
    expect(packages.filter(({ isShipped }) => isShipped).length).toBeGreaterThan(200);
    expect(() => licencePage(packages)).not.toThrow();
  });

  it.each([
    ['MIT', true],
    ['(MIT OR GPL-3.0)', true],
    ['MIT and ISC', true],
    ['MIT AND GPL-3.0', false],
    ['GPL-3.0', false],
    ['SEE LICENSE IN file', false],
  ])('may be shipped under %s: %s', (license, allowed) => {
    expect(isAllowed(license, shippedLicences)).toBe(allowed);
  });

  it('are refused by name when one of them may not be shipped', () => {
    const one = { name: 'taken', version: '1.0.0', license: 'AGPL-3.0', isShipped: true };
    expect(() => licencePage([one])).toThrow(/taken@1\.0\.0: AGPL-3\.0/);
  });
});
