// Reads package.json once and prints what bin/compile needs to know as shell assignments.
const fs = require('fs');
const path = require('path');
const { createHash } = require('crypto');

const [npm, quiet, ...locks] = process.argv.slice(2);
const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8').replace(/^\uFEFF/, ''));
const say = (name, value) => console.log(`${name}='${String(value).replace(/'/g, `'\\''`)}'`);

let app;
try {
  app = read('package.json');
} catch (error) {
  console.error(error.message);
  process.exit(1);
}

const scripts = app.scripts || {};
const has = (name) => typeof scripts[name] === 'string' && scripts[name].trim() !== '';
const named = (names) => names.filter(has).join(' ');
const count = (kind) => Object.keys(app[kind] || {}).length;

say('PLAN_DEPENDENCIES', count('dependencies') + count('optionalDependencies') + count('devDependencies') + count('peerDependencies'));
say('PLAN_DEV_DEPENDENCIES', count('devDependencies'));
say('PLAN_WORKSPACES', app.workspaces || fs.existsSync('pnpm-workspace.yaml') ? 1 : '');
say('PLAN_PREBUILD', named(['heroku-prebuild']));
const installing = ['preinstall', 'install', 'postinstall', 'preprepare', 'prepare', 'postprepare'];
say('PLAN_INSTALL', named(installing));
// The same app without them: its dependencies are installed, and kept, before its own scripts change them.
const others = Object.entries(scripts).filter(([name]) => !installing.includes(name));
fs.writeFileSync(quiet, JSON.stringify({ ...app, scripts: Object.fromEntries(others) }, null, 2));
// `heroku-postbuild` replaces `build`.
say('PLAN_BUILD', has('heroku-postbuild') ? 'heroku-postbuild' : named(['build']));
say('PLAN_CLEANUP', named(['heroku-cleanup']));
say('PLAN_CACHED', (app.cacheDirectories || []).filter((dir) => /^[\w.@/-]+$/.test(dir) && !/(^|\/)\.\.(\/|$)|^\/|^node_modules\/?$/.test(dir)).join(' '));

// `npm start` is an npm of 40 MB between the platform and the app, which takes its 0.3 s at every boot and
// loses signals. A start script that is nothing but `node ...` is therefore run as it stands.
let start = '';
if (has('start')) {
  const plain = /^node( [\w@%+=:,./-]+)+$/.test(scripts.start.trim());
  start = plain && !has('prestart') && !has('poststart') ? scripts.start.trim() : 'npm start';
} else if (fs.existsSync('server.js')) {
  start = 'node server.js';
}
say('PLAN_WEB', start && JSON.stringify(start));

const wanted = (app.engines && app.engines.node) || '';
say('PLAN_MANAGER', /^[\w@/.-]+$/.test(app.packageManager || '') ? app.packageManager : String(app.packageManager || '').split('+')[0]);
say('PLAN_NODE', process.version);
say('PLAN_ENGINES', wanted);
say('PLAN_SATISFIED', satisfies(wanted) ? 1 : '');
function satisfies(range) {
  try {
    return !range || require(path.join(fs.realpathSync(npm), '../../node_modules/semver')).satisfies(process.version, range);
  } catch {
    return true; // no npm beside this node: nobody to ask
  }
}

// What an installation depends on: neither the version nor the scripts of the app itself.
const hash = createHash('sha256');
for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies', 'bundleDependencies', 'bundledDependencies', 'overrides', 'resolutions', 'workspaces', 'pnpm', 'packageManager', 'dependenciesMeta', 'allowScripts']) {
  hash.update(JSON.stringify([kind, app[kind] === undefined ? null : app[kind]]));
}
for (const lock of locks) {
  hash.update(lock).update(fs.readFileSync(lock));
}
say('PLAN_HASH', hash.digest('hex').slice(0, 16));
