# Twin of test.sh: sets up what the tests need, checks, then runs the tests. With arguments: only pytest with these.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
& (Join-Path $PSScriptRoot 'setup.ps1') --test --quiet
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
$python = if (Test-Path '.venv/Scripts') { '.venv/Scripts/python.exe' } else { '.venv/bin/python' }
& $python scripts/test.py @args
exit $LASTEXITCODE
