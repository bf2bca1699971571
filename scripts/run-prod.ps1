# Twin of run-prod.sh: serves with JSON logs; installs nothing.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
& (Join-Path $PSScriptRoot 'setup.ps1') --check
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
$env:AUTH_MODE = 'required'
if (-not $env:LOG_FORMAT) { $env:LOG_FORMAT = 'json' }
$python = if (Test-Path '.venv/Scripts') { '.venv/Scripts/python.exe' } else { '.venv/bin/python' }
& $python -m trio_stt serve
exit $LASTEXITCODE
