// echo '{"host", "port", "user", "password", "domain", ...}' | node play.js SCENE
// Plays one scene of scenes.js and prints its transcript; ends with status 1 and the reason on stderr if the scene cannot go on.
'use strict';

const fs = require('fs');
const scenes = require('./scenes.js');

scenes[process.argv[2]](JSON.parse(fs.readFileSync(0, 'utf8'))).then(
    () => process.exit(0),
    (error) => { process.stderr.write(`${error.stack}\n`); process.exit(1); },
);
