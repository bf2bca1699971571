# Twin of download-vosk-model.sh: installs speech models; English unless told.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
$python = if (Test-Path '.venv/Scripts') { '.venv/Scripts/python.exe' } else { '.venv/bin/python' }
if (-not (Test-Path $python)) {
    [Console]::Error.WriteLine('The environment is missing: run scripts/setup.ps1 first.')
    exit 1
}
$arguments = if ($args.Count) { $args } else { @('en') }
& $python -m trio_stt models install @arguments
exit $LASTEXITCODE
